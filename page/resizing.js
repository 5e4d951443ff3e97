// Resizing as Pillow does it, to the last bit for grey levels: with a filter as wide as a pixel of the result.

/** @typedef {(x: number) => number} Filter */

/** @type {{support: number, weight: Filter}} */
export const BILINEAR = { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) }
/** @type {{support: number, weight: Filter}} */
export const BICUBIC = {
  support: 2,
  weight: (x) => {
    const [far, a] = [Math.abs(x), -0.5]
    if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1
    return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0
  },
}
const PRECISION = 22 // bits behind the point of a weight, where pixels are bytes

/**
 * (height, width) pixels, row by row, as (rows, columns). Both sides by about the same factor: where height alone
 * shrinks, Pillow takes the two passes the other way round.
 * @template {Uint8Array | Float32Array} T
 * @param {T} pixels
 * @param {number} height
 * @param {number} width
 * @param {number} rows
 * @param {number} columns
 * @param {{support: number, weight: Filter}} filter
 * @returns {T}
 */
export function resized(pixels, height, width, rows, columns, filter) {
  let made = pixels
  if (columns !== width) made = along(made, height, width, columns, [1, width], [1, columns], filter)
  if (rows !== height) made = along(made, columns, height, rows, [columns, 1], [columns, 1], filter)
  return made
}

/**
 * Resizes `lines` lines from `before` to `after` pixels.
 * @template {Uint8Array | Float32Array} T
 * @param {T} pixels
 * @param {number} lines
 * @param {number} before
 * @param {number} after
 * @param {[number, number]} from how far apart two pixels of a line are, and two lines
 * @param {[number, number]} to the same of the result
 * @param {{support: number, weight: Filter}} filter
 * @returns {T}
 */
function along(pixels, lines, before, after, from, to, filter) {
  const bytes = pixels instanceof Uint8Array
  const made = /** @type {T} */ (bytes ? new Uint8Array(lines * after) : new Float32Array(lines * after))
  const { starts, counts, weights, width } = coefficients(before, after, filter, bytes)
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < after; i++) {
      let at = line * from[1] + starts[i] * from[0]
      let sum = bytes ? 2 ** (PRECISION - 1) : 0
      for (let k = i * width, end = k + counts[i]; k < end; k++, at += from[0]) sum += pixels[at] * weights[k]
      made[line * to[1] + i * to[0]] = bytes ? Math.min(255, Math.max(0, sum >> PRECISION)) : sum
    }
  }
  return made
}

/**
 * Which pixels a pixel of the result is made of, and their weights: `width` of them for each.
 * @param {number} before
 * @param {number} after
 * @param {{support: number, weight: Filter}} filter
 * @param {boolean} whole whether weights are whole numbers
 */
function coefficients(before, after, filter, whole) {
  const scale = before / after
  const wide = Math.max(1, scale)
  const support = filter.support * wide
  const width = Math.ceil(support) * 2 + 1
  const [starts, counts] = [new Int32Array(after), new Int32Array(after)]
  const weights = new Float64Array(after * width)
  for (let i = 0; i < after; i++) {
    const centre = (i + 0.5) * scale
    const start = Math.max(0, Math.trunc(centre - support + 0.5))
    const count = Math.min(before, Math.trunc(centre + support + 0.5)) - start
    let sum = 0
    for (let k = 0; k < count; k++) {
      const weight = filter.weight((k + start - centre + 0.5) / wide)
      weights[i * width + k] = weight
      sum += weight
    }
    for (let k = i * width; k < i * width + count; k++) {
      const share = sum ? weights[k] / sum : weights[k]
      weights[k] = whole ? Math.trunc(share * 2 ** PRECISION + (share < 0 ? -0.5 : 0.5)) : share
    }
    starts[i] = start
    counts[i] = count
  }
  return { starts, counts, weights, width }
}
