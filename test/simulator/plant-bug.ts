/** node --import plant-bug.js: plants the bug that PLANTED_BUG describes into what is loaded from here on. */
import { register } from 'node:module'

const data: unknown = JSON.parse(process.env['PLANTED_BUG'] ?? '')
register('./plant-bug-hooks.js', import.meta.url, { data })
