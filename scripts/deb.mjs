/** Makes a package for Debian: npm run deb [-- --version=VERSION] [--output=DIRECTORY]. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { gzipSync } from 'node:zlib'
import { ROOT, ScriptError, main, run } from './command.mjs'
import { build } from './build.mjs'
import { buildRawSocket } from './npm-packages.mjs'

const ARCHITECTURES = { x64: 'amd64', arm64: 'arm64' }

/** Where the program is; /usr/bin has links to it. */
const HOME = 'usr/lib/flanneld'

/** Of packages of npm: what only developers and compilers read. */
const NOT_SHIPPED =
  /\.(d\.[cm]?ts|[cm]?ts|map|md|markdown|html|cc|h|gyp|o|mk|flow)$|\/\.[^/]+$|\/node_modules\/(@[^/]+\/)?[^/]+\/(tests?|docs?|examples?)$|\/raw-socket\/build\/(?!Release)|\/(obj\.target|\.deps)$/
const LICENSE = /\/(licen[cs]e|copying|notice)[^/]*$/i

await main(async () => {
  const { values } = parseArgs({
    options: {
      version: { type: 'string' },
      output: { type: 'string', default: join(ROOT, 'dist/deb') },
      'no-build': { type: 'boolean', default: false },
    },
  })
  if (!values['no-build']) {
    await build()
    await buildRawSocket()
  }
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const version = values.version ?? manifest.version
  if (!/^[0-9][A-Za-z0-9.+~]*$/.test(version))
    throw new ScriptError(`--version is ${version}, which is none of Debian's`)
  const architecture = ARCHITECTURES[process.arch]
  if (architecture === undefined)
    throw new ScriptError(`there is no package for ${process.arch}`)
  if (!existsSync(join(ROOT, 'node_modules/raw-socket/build/Release/raw.node')))
    throw new ScriptError(
      'raw-socket is not compiled, which measures the ways to remotes: install python3, make and g++, then npm run build',
    )
  const stage = mkdtempSync(join(tmpdir(), 'flanneld-deb-'))
  try {
    chmodSync(stage, 0o755)
    fill(stage, { ...manifest, version })
    const sbom = zipText(billOfMaterials({ ...manifest, version }))
    put(stage, 'usr/share/doc/flanneld/sbom.cdx.json.gz', sbom)
    describe(stage, version, architecture)
    mkdirSync(values.output, { recursive: true })
    const file = join(values.output, `flanneld_${version}_${architecture}.deb`)
    const options = ['--root-owner-group', '-Zxz', '-z1', '--build']
    await run('dpkg-deb', [...options, stage, file], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    console.log(file)
  } finally {
    rmSync(stage, { recursive: true })
  }
})

/** What is installed. */
function fill(stage, manifest) {
  const { name, version, type, license, engines } = manifest
  put(
    stage,
    `${HOME}/package.json`,
    `${JSON.stringify({ name, version, type, license, engines }, null, 2)}\n`,
  )
  for (const part of ['cmd', 'lib'])
    copy(join(ROOT, 'dist', part), join(stage, HOME, 'dist', part))
  for (const path of shippedPackages()) copy(join(ROOT, path), join(stage, HOME, path))
  for (const command of ['flanneld', 'flannelctl']) {
    chmodSync(join(stage, HOME, `dist/cmd/${command}.js`), 0o755)
    link(stage, `usr/bin/${command}`, `../lib/flanneld/dist/cmd/${command}.js`)
    put(stage, `usr/share/man/man8/${command}.8.gz`, zip(`packaging/man/${command}.8`))
  }
  put(stage, `${HOME}/mk-docker-opts.sh`, read('packaging/mk-docker-opts.sh'), 0o755)
  put(stage, 'etc/default/flanneld', read('packaging/default/flanneld'))
  put(
    stage,
    'usr/lib/systemd/system/flanneld.service',
    installed('packaging/systemd/flanneld.service'),
  )
  put(
    stage,
    'usr/lib/systemd/system/subnet-changed.service',
    installed('packaging/systemd/subnet-changed.service'),
  )
  const completions = 'usr/share/bash-completion/completions'
  put(stage, `${completions}/flanneld`, read('packaging/completion/flanneld.bash'))
  link(stage, `${completions}/flannelctl`, 'flanneld')
  put(
    stage,
    'usr/share/zsh/vendor-completions/_flanneld',
    read('packaging/completion/_flanneld'),
  )
  const documents = 'usr/share/doc/flanneld'
  put(stage, `${documents}/copyright`, read('packaging/debian/copyright'))
  put(stage, `${documents}/CHANGELOG.md.gz`, zip('CHANGELOG.md'))
  put(stage, `${documents}/README.md.gz`, zip('README.md'))
  for (const path of files(join(ROOT, 'packaging'))) {
    const inside = relative(join(ROOT, 'packaging'), path)
    if (
      /^(debian|man|completion|default)\/|^mk-docker-opts|\/flanneld\.service$/.test(
        inside,
      )
    )
      continue
    put(
      stage,
      `${documents}/examples/${inside.replace(/^systemd\//, '')}`,
      installed(join('packaging', inside)),
    )
  }
}

function describe(stage, version, architecture) {
  const bytes = files(stage).reduce((sum, path) => sum + statSync(path).size, 0)
  const control = read('packaging/debian/control')
    .replace('@VERSION@', version)
    .replace('@ARCHITECTURE@', architecture)
    .replace('@SIZE@', String(Math.ceil(bytes / 1024)))
  put(stage, 'DEBIAN/control', control)
  put(stage, 'DEBIAN/conffiles', '/etc/default/flanneld\n')
  for (const script of ['postinst', 'prerm', 'postrm'])
    put(stage, `DEBIAN/${script}`, read(`packaging/debian/${script}`), 0o755)
}

/** Paths of the installed packages that are no developer's alone. */
function shippedPackages() {
  const lock = JSON.parse(read('node_modules/.package-lock.json'))
  return Object.entries(lock.packages)
    .filter(([path, { dev, devOptional }]) => path !== '' && !dev && !devOptional)
    .map(([path]) => path)
}

function copy(from, to) {
  cpSync(from, to, {
    recursive: true,
    // A package inside a package has an entry of its own.
    filter: source =>
      (LICENSE.test(source) || !NOT_SHIPPED.test(source)) &&
      basename(source) !== 'node_modules',
  })
  for (const path of files(to)) chmodSync(path, 0o644)
}

function put(stage, path, text, mode = 0o644) {
  const whole = join(stage, path)
  mkdirSync(dirname(whole), { recursive: true })
  writeFileSync(whole, text)
  chmodSync(whole, mode)
}

function link(stage, path, target) {
  const whole = join(stage, path)
  mkdirSync(dirname(whole), { recursive: true })
  symlinkSync(target, whole)
}

function read(path) {
  return readFileSync(join(ROOT, path), 'utf8')
}

/** Names the programs where the package has them. */
function installed(path) {
  return read(path).replaceAll('/usr/local/bin/', '/usr/bin/')
}

function zip(path) {
  return zipText(read(path))
}

function zipText(text) {
  return gzipSync(text, { level: 9 })
}

/** Which packages of npm are in it, with their licences and digests (CycloneDX). */
function billOfMaterials({ name, version }) {
  const args = ['sbom', '--omit=dev', '--sbom-format=cyclonedx', '--package-lock-only']
  const text = execFileSync('npm', args, {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 16 << 20,
  })
  const bill = JSON.parse(text)
  // npm calls it after the directory that it is in.
  Object.assign(bill.metadata.component, { name, version })
  return JSON.stringify(bill, null, 1)
}

function files(directory) {
  return readdirSync(directory, { withFileTypes: true }).flatMap(entry => {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) return files(path)
    return entry.isFile() ? [path] : []
  })
}
