import { main } from './command.mjs'
import { installNpmPackages } from './npm-packages.mjs'

await main(installNpmPackages)
