// Colours to grey levels, and how colourful a picture is.

const SIDE = 32 // pixels to a side of the small picture that saturation is measured on, as in predict.py

/**
 * ITU-R 601-2 luma in Pillow's integers.
 * @param {number} red 0 to 255
 * @param {number} green 0 to 255
 * @param {number} blue 0 to 255
 */
export function luma(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
}

/** Collects the pixels of a picture in a grid of at most 32 x 32 cells, and measures how colourful these are. */
export class Saturation {
  /**
   * @param {number} height of the picture, in pixels
   * @param {number} width
   * @param {boolean} sampled whether a cell is the pixel in its middle, as where there is a palette, and not a mean
   */
  constructor(height, width, sampled) {
    const cells = (/** @type {number} */ size) => {
      const count = Math.min(SIDE, size)
      return Int8Array.from({ length: size }, (_, place) => {
        const cell = Math.floor((place * count) / size)
        return sampled && Math.floor(((cell + 0.5) * size) / count) !== place ? -1 : cell
      })
    }
    this.rows = cells(height)
    this.columns = cells(width)
    this.sums = new Float64Array(SIDE * SIDE * 4) // red, green, blue, count
  }

  /**
   * @param {number} y the row
   * @param {number} x the column
   * @param {number} red 0 to 255
   * @param {number} green
   * @param {number} blue
   */
  add(y, x, red, green, blue) {
    const [row, column] = [this.rows[y], this.columns[x]]
    if (row < 0 || column < 0) return
    const cell = 4 * (row * SIDE + column)
    this.sums[cell] += red
    this.sums[cell + 1] += green
    this.sums[cell + 2] += blue
    this.sums[cell + 3] += 1
  }

  /** The mean over the grid of the largest minus the smallest of red, green and blue, 0 to 255. */
  mean() {
    let [total, cells] = [0, 0]
    for (let cell = 0; cell < this.sums.length; cell += 4) {
      const count = this.sums[cell + 3]
      if (!count) continue
      const colour = this.sums.subarray(cell, cell + 3)
      total += (Math.max(...colour) - Math.min(...colour)) / count
      cells += 1
    }
    return cells ? total / cells : 0
  }
}
