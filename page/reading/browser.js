// Where a browser finds the decoders that it lacks: beside the page, in vendor/.

const VENDOR = new URL('../vendor/', import.meta.url)
/** Emscripten's modules, which export.py made modules of JavaScript; their WebAssembly lies beside them. */
const MODULES = /** @type {Record<string, string>} */ ({
  charls: 'charlswasm_decode.js',
  'libjpeg-turbo-8bit': 'libjpegturbowasm_decode.js',
  openjpeg: 'openjpegwasm_decode.js',
})
/** @type {Map<string, Promise<any>>} */
const loaded = new Map()

/**
 * A decoder's module, loaded once.
 * @type {import('./film.js').Codec}
 */
export function codec(name) {
  const known = loaded.get(name) ?? load(name)
  loaded.set(name, known)
  known.catch(() => loaded.delete(name)) // perhaps it can be loaded later
  return known
}

/** @param {string} name */
async function load(name) {
  const { default: make } = await import(new URL(MODULES[name], VENDOR).href)
  const locateFile = (/** @type {string} */ file) => new URL(file, VENDOR).href
  return make({ locateFile, print: quiet, printErr: quiet })
}

/** What goes wrong is thrown. */
function quiet() {}
