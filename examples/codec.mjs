// The decoders that node lacks, for page/reading/film.js: the modules that a page has too, from node_modules.

import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
/** @type {Map<string, Promise<any>>} */
const loaded = new Map()

/**
 * A decoder's module, loaded once.
 * @type {import('../page/reading/film.js').Codec}
 */
export function codec(name) {
  const known = loaded.get(name) ?? load(name)
  loaded.set(name, known)
  return known
}

/** @param {string} name */
async function load(name) {
  const make = require(`@cornerstonejs/codec-${name}/decodewasmjs`) // CommonJS, with its WebAssembly beside it
  const wasm = require.resolve(`@cornerstonejs/codec-${name}/decodewasm`)
  const quiet = () => {} // what goes wrong is thrown
  return make({ locateFile: () => wasm, print: quiet, printErr: quiet })
}
