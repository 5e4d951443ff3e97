// The rows of a PNG: inflated, their filters undone, and put where they belong (PNG, third edition, 7 to 9).

import { joined } from './bytes.js'
import { inflated } from './inflating.js'

// Adam7: of each pass its first column and row, and how far apart its columns and rows are.
const PASSES = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
]

/**
 * @callback UseRow
 * @param {Uint8Array} row samples as they are packed in the file
 * @param {number} count of its pixels
 * @param {number} y where they belong: the row,
 * @param {number} x the column of the first one,
 * @param {number} step and how far apart they are
 */

/**
 * Calls `use` with every row; only two of them are in memory at a time, beside a piece of what is inflated.
 * @param {{width: number, height: number, interlaced: boolean, data: Uint8Array[]}} picture
 * @param {number} bits of a pixel
 * @param {UseRow} use
 * @throws {Error} where the data are damaged or end too early
 */
export async function eachRow({ width, height, interlaced, data }, bits, use) {
  const source = new Source(inflated(data, 'deflate'))
  try {
    for (const [x, y, across, down] of interlaced ? PASSES : [[0, 0, 1, 1]]) {
      const [columns, rows] = [Math.ceil((width - x) / across), Math.ceil((height - y) / down)]
      if (columns < 1 || rows < 1) continue // a pass of a small picture may be empty
      const length = Math.ceil((columns * bits) / 8)
      let [row, above] = [new Uint8Array(length), new Uint8Array(length)]
      for (let i = 0; i < rows; i++) {
        if (!source.ready(length + 1)) await source.more(length + 1)
        const filter = source.take(row)
        unfilter(filter, row, above, Math.max(1, bits >> 3))
        use(row, columns, y + i * down, x, across)
        ;[row, above] = [above, row]
      }
    }
  } finally {
    await source.close()
  }
}

/** What has been inflated and not been used yet. */
class Source {
  /** @param {AsyncGenerator<Uint8Array>} pieces */
  constructor(pieces) {
    this.pieces = pieces
    /** @type {Uint8Array} */
    this.piece = new Uint8Array()
    this.at = 0
  }

  /** @param {number} count of bytes */
  ready(count) {
    return this.at + count <= this.piece.length
  }

  /** @param {number} count of bytes that are needed */
  async more(count) {
    while (!this.ready(count)) {
      const { done, value } = await this.pieces.next()
      if (done) throw new Error('image file is truncated')
      const rest = this.piece.subarray(this.at)
      this.piece = rest.length ? joined([rest, value]) : value
      this.at = 0
    }
  }

  /**
   * Fills a row, and returns the number of the filter that stands before it.
   * @param {Uint8Array} row
   */
  take(row) {
    const filter = this.piece[this.at]
    row.set(this.piece.subarray(this.at + 1, this.at + 1 + row.length))
    this.at += 1 + row.length
    return filter
  }

  async close() {
    await this.pieces.return(undefined)
  }
}

/**
 * Undoes a filter in place (9.2).
 * @param {number} filter 0 to 4
 * @param {Uint8Array} row
 * @param {Uint8Array} above the row above, undone already; zeros above the first one
 * @param {number} size bytes of a pixel, at least 1
 */
function unfilter(filter, row, above, size) {
  const { length } = row
  if (filter === 1) {
    for (let i = size; i < length; i++) row[i] += row[i - size]
  } else if (filter === 2) {
    for (let i = 0; i < length; i++) row[i] += above[i]
  } else if (filter === 3) {
    for (let i = 0; i < length; i++) row[i] += ((i < size ? 0 : row[i - size]) + above[i]) >> 1
  } else if (filter === 4) {
    for (let i = 0; i < Math.min(size, length); i++) row[i] += above[i]
    for (let i = size; i < length; i++) {
      const [left, up, corner] = [row[i - size], above[i], above[i - size]]
      const [byLeft, byUp] = [Math.abs(up - corner), Math.abs(left - corner)]
      const byCorner = Math.abs(left + up - 2 * corner)
      row[i] += byLeft <= byUp && byLeft <= byCorner ? left : byUp <= byCorner ? up : corner
    }
  } else if (filter !== 0) {
    throw new Error('unrecognized data stream contents when reading image file')
  }
}
