// Stored values of DICOM pixels: which bits of a sample count, and the grey level of each value.

import { isEncapsulated, RLE } from './syntaxes.js'

/** @typedef {import('./dicom.js').Header} Header */
/** @typedef {import('./bytes.js').Values} Values */

/**
 * The BitsStored bits that end at HighBit, as integers; the others may hold anything (DICOM PS3.5, 8.1.1).
 * @param {Values} pixels with all bits that are allocated
 * @param {Header} header
 * @returns {Int32Array | Float64Array} of the same length; 32 bits, and their signs, fit into a double
 */
export function storedValues(pixels, header) {
  const { allocated, stored, signed, syntax } = header
  const [high] = header.elements.numbers('HighBit')
  let shift = high != null && high < allocated ? Math.max(0, Math.trunc(high) - stored + 1) : 0
  if (shift && isEncapsulated(syntax) && syntax !== RLE) {
    const { low, high } = rangeOf(pixels)
    // A JPEG has a precision of its own, and may hold only the bits that count.
    if (-(2 ** stored) <= low && high < 2 ** stored) shift = 0
  }
  if (allocated > 16) return wideValues(pixels, shift, stored, signed)
  const values = new Int32Array(pixels.length)
  const mask = 2 ** stored - 1
  for (let i = 0; i < values.length; i++) {
    const value = (pixels[i] >> shift) & mask
    values[i] = signed ? value - ((value >> (stored - 1)) << stored) : value
  }
  return values
}

/**
 * The same of more than 16 bits, by arithmetic: JavaScript's shifts end at 32 bits.
 * @param {Values} pixels
 * @param {number} shift
 * @param {number} stored
 * @param {boolean} signed
 */
function wideValues(pixels, shift, stored, signed) {
  const range = 2 ** stored
  return new Float64Array(pixels).map((pixel) => {
    const value = Math.floor(pixel / 2 ** shift)
    const low = value - range * Math.floor(value / range)
    return signed && low >= range / 2 ? low - range : low
  })
}

/**
 * @param {Values} values at least one
 * @returns {{low: number, high: number}}
 */
export function rangeOf(values) {
  let low = values[0]
  let high = low
  for (let i = 0; i < values.length; i++) {
    if (values[i] < low) low = values[i]
    else if (values[i] > high) high = values[i]
  }
  return { low, high }
}

/**
 * `shown` of each value, worked out once for each level: a film has millions of pixels, and thousands of levels.
 * @param {Int32Array | Float64Array} values
 * @param {(levels: Float64Array) => Uint8Array} shown of distinct integers, ascending
 * @returns {Uint8Array} of the same length
 */
export function byLevel(values, shown) {
  const { low, high } = rangeOf(values)
  const span = high - low
  if (span >= 2 ** 20) {
    const levels = Float64Array.from(new Set(values)).sort()
    const greys = shown(levels)
    const places = new Map(Array.from(levels, (level, i) => [level, greys[i]]))
    return Uint8Array.from(values, (value) => places.get(value) ?? 0)
  }
  const present = new Uint8Array(span + 1)
  for (let i = 0; i < values.length; i++) present[values[i] - low] = 1
  const levels = Float64Array.from({ length: present.reduce((sum, there) => sum + there, 0) })
  for (let place = 0, at = 0; place <= span; place++) if (present[place]) levels[at++] = place + low
  const greys = shown(levels)
  const table = new Uint8Array(span + 1)
  for (let i = 0; i < levels.length; i++) table[levels[i] - low] = greys[i]
  const grey = new Uint8Array(values.length) // by a loop: Uint8Array.from takes seconds for a large film
  for (let i = 0; i < grey.length; i++) grey[i] = table[values[i] - low]
  return grey
}
