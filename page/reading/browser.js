// What a browser decodes by itself, and where it finds the decoders that it lacks: beside the page, in vendor/.

import { Unusable } from './limits.js'

const STRIP = 1024 // rows: a canvas of a whole film would be larger than some browsers allow
const VENDOR = new URL('../vendor/', import.meta.url)
/** Emscripten's modules, which export.py made modules of JavaScript; their WebAssembly lies beside them. */
const MODULES = /** @type {Record<string, string>} */ ({
  charls: 'charlswasm_decode.js',
  openjpeg: 'openjpegwasm_decode.js',
})
/** @type {Map<string, Promise<any>>} */
const loaded = new Map()
let trusted = false // whether a canvas gives back what was drawn on it

/** @type {import('./film.js').Host} */
export const host = { jpeg, codec }

/**
 * The pixels of a JPEG; ./jpeg.js has taken out of it what browsers would apply.
 * @param {Uint8Array} content
 */
async function jpeg(content) {
  const bitmap = await createImageBitmap(new Blob([/** @type {BlobPart} */ (content)], { type: 'image/jpeg' }), {
    colorSpaceConversion: 'none',
    imageOrientation: 'none',
    premultiplyAlpha: 'none',
  }).catch(() => {
    throw new Error('this browser cannot decode it')
  })
  const { width, height } = bitmap
  const context = canvasOf(width, Math.min(height, STRIP))
  checkCanvas()
  const data = new Uint8ClampedArray(4 * width * height)
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top)
    context.drawImage(bitmap, 0, -top)
    data.set(context.getImageData(0, 0, width, rows).data, 4 * width * top)
  }
  bitmap.close()
  return { data, channels: 4, width, height }
}

/**
 * @param {number} width
 * @param {number} height
 */
function canvasOf(width, height) {
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true })
  if (!context) throw new Unusable('this browser lends no canvas, which decoding a JPEG takes')
  return context
}

/** Refuses a browser that gives other pixels than were drawn, which some do against being recognised. */
function checkCanvas() {
  if (trusted) return
  const drawn = new ImageData(64, 64)
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : (i * 37 + (i >> 8) * 11) & 255
  const context = canvasOf(64, 64)
  context.putImageData(drawn, 0, 0)
  const read = context.getImageData(0, 0, 64, 64).data
  if (read.some((level, i) => Math.abs(level - drawn.data[i]) > 2)) {
    throw new Unusable(
      'this browser changes the pixels of a JPEG against fingerprinting: allow this page to read canvases',
    )
  }
  trusted = true
}

/**
 * A decoder's module, loaded once.
 * @param {string} name
 */
function codec(name) {
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
