import js from '@eslint/js'
import tseslint from 'typescript-eslint'

/** Forbids imports of our own folders, so that they only run one way (docs/ARCHITECTURE.md). */
const mayNotImport = (...folders) => ({
  'no-restricted-imports': [
    'error',
    {
      patterns: folders.map(folder => ({
        regex: `/${folder}/`,
        message: `imports run cmd → { lib/backend, lib/probe, lib/names } → { lib/subnet, lib/encap, lib/linux }`,
      })),
    },
  ],
})

export default tseslint.config(
  { ignores: ['dist/', '.tap/', 'node_modules/'] },
  js.configs.recommended,
  {
    files: ['**/*.mjs', '**/*.js'],
    languageOptions: {
      globals: {
        AbortController: 'readonly',
        AbortSignal: 'readonly',
        URL: 'readonly',
        console: 'readonly',
        performance: 'readonly',
        process: 'readonly',
      },
    },
  },
  {
    files: ['**/*.ts'],
    extends: [
      ...tseslint.configs.strictTypeChecked,
      ...tseslint.configs.stylisticTypeChecked,
    ],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      'no-console': 'error',
    },
  },
  { files: ['cmd/**/*.ts', 'bench/**/*.ts'], rules: { 'no-console': 'off' } },
  {
    // A typed-array read below a length check: the `!` says the length was checked.
    files: ['lib/encap/**/*.ts', 'test/**/*.ts', 'bench/**/*.ts'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  {
    // tap's t.test returns a promise that the parent test already awaits.
    files: ['test/**/*.ts'],
    rules: { '@typescript-eslint/no-floating-promises': 'off' },
  },
  {
    files: ['lib/subnet/**/*.ts'],
    rules: mayNotImport('encap', 'linux', 'backend', 'cmd'),
  },
  {
    files: ['lib/encap/**/*.ts'],
    rules: mayNotImport('subnet', 'linux', 'backend', 'probe', 'cmd'),
  },
  {
    files: ['lib/linux/**/*.ts'],
    rules: mayNotImport('subnet', 'encap', 'backend', 'probe', 'cmd'),
  },
  { files: ['lib/backend/**/*.ts'], rules: mayNotImport('probe', 'cmd') },
  { files: ['lib/diagnosis/**/*.ts'], rules: mayNotImport('cmd') },
  {
    files: ['lib/names/**/*.ts'],
    rules: mayNotImport('linux', 'encap', 'backend', 'probe', 'cmd'),
  },
  { files: ['lib/probe/**/*.ts'], rules: mayNotImport('backend', 'cmd') },
)
