// Deflated data by the platform's own DecompressionStream: browsers and node have it, so no library is needed.

import { joined } from './bytes.js'

/** What ends a stream of deflated data that is damaged, or shorter than it should be. */
const DAMAGED = 'broken data stream when reading image file'

/**
 * The inflated data, in pieces of any size, so that nobody has to hold all of them; it may be left at any piece.
 * @param {Uint8Array[]} parts of the deflated data, in order
 * @param {'deflate' | 'deflate-raw'} format with zlib's header, as in PNG, or without, as in DICOM
 * @returns {AsyncGenerator<Uint8Array>}
 * @throws {Error} where the data are damaged or end too early
 */
export async function* inflated(parts, format) {
  const stream = new Blob(/** @type {BlobPart[]} */ (parts)).stream().pipeThrough(new DecompressionStream(format))
  const reader = stream.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new Error(DAMAGED)
      })
      if (done) return
      yield value
    }
  } finally {
    reader.cancel().catch(() => {}) // of what nobody wants any more; a damaged stream has ended already
  }
}

/**
 * All of the inflated data, in one piece.
 * @param {Uint8Array} content deflated, without zlib's header
 * @param {number} limit in bytes: a few deflated ones may stand for gigabytes
 * @returns {Promise<Uint8Array>}
 * @throws {Error} as `inflated`, and above the limit
 */
export async function inflatedWhole(content, limit) {
  const pieces = []
  let length = 0
  for await (const piece of inflated([content], 'deflate-raw')) {
    pieces.push(piece)
    length += piece.length
    if (length > limit) throw new Error(`more than ${limit} bytes when inflated`)
  }
  return joined(pieces)
}
