// Lossless JPEG (ITU-T T.81, annex H), which browsers do not decode. jpeg-lossless-decoder-js passes over codes that do
// not exist, and so gives wrong pixels for a damaged film without a word; here damage is an error.

import { joined, viewOf } from './bytes.js'

/** @typedef {import('./jpeg.js').Frame} Frame */

const LOSSLESS = 0xc3 // the frame's marker
const [TABLES, INTERVAL] = [0xc4, 0xdd] // markers: of Huffman tables, of the restart interval
const DAMAGED = 'broken data stream when reading image file'

/**
 * The samples of each pixel, row by row.
 * @param {Frame} frame of at most 16 bits
 * @returns {Uint16Array}
 * @throws {Error} where it is damaged, or of a kind that is hardly ever written
 */
export function losslessValues(frame) {
  const { width, height, precision, components } = frame
  if (frame.kind !== LOSSLESS) throw new Error('not lossless JPEG')
  const count = components.length
  const scan = scanOf(frame)
  const values = new Uint16Array(width * height * count)
  const stride = width * count
  const interval = scan.interval || width * height
  if (interval % width) throw new Error('a restart in the middle of a row')
  for (let row = 0, part = 0; row < height; part++) {
    const bits = new Bits(scan.parts[part] ?? new Uint8Array())
    const end = Math.min(height, row + interval / width)
    for (let first = true; row < end; row++, first = false) {
      decodeRow(
        values,
        row * stride,
        stride,
        count,
        first ? 0 : scan.predictor,
        bits,
        scan.tables,
        2 ** (precision - 1),
      )
    }
    bits.check()
  }
  if (values.some((value) => value >= 2 ** precision)) throw new Error(DAMAGED)
  return values
}

/**
 * Decodes a row (H.1.2.1): a difference from what its neighbours predict, for each sample.
 * @param {Uint16Array} values
 * @param {number} start of the row
 * @param {number} stride samples in a row
 * @param {number} count samples in a pixel
 * @param {number} predictor 1 to 7, or 0 in a row that has none above it
 * @param {Bits} bits
 * @param {Uint16Array[]} tables of each sample
 * @param {number} middle what the first sample is predicted as
 */
function decodeRow(values, start, stride, count, predictor, bits, tables, middle) {
  for (let i = 0; i < stride; i++) {
    const [at, first] = [start + i, i < count]
    const left = first ? 0 : values[at - count]
    const above = predictor ? values[at - stride] : 0
    let expected = left
    if (first) expected = predictor ? above : middle
    else if (predictor > 1) expected = predicted(predictor, left, above, values[at - stride - count])
    values[at] = expected + bits.difference(tables[i % count]) // modulo 65536
  }
}

/**
 * @param {number} predictor 2 to 7 (table H.1)
 * @param {number} left
 * @param {number} above
 * @param {number} corner
 */
function predicted(predictor, left, above, corner) {
  if (predictor === 2) return above
  if (predictor === 3) return corner
  if (predictor === 4) return left + above - corner
  if (predictor === 5) return left + ((above - corner) >> 1)
  return predictor === 6 ? above + ((left - corner) >> 1) : (left + above) >> 1
}

/**
 * What the one scan of a frame says: its tables, and its data, in parts from restart to restart.
 * @param {Frame} frame
 */
function scanOf({ rest, components }) {
  /** @type {Map<number, Uint16Array>} */
  const known = new Map()
  let interval = 0
  for (const segment of rest.slice(0, -1)) {
    if (segment[1] === TABLES) readTables(segment.subarray(4), known)
    if (segment[1] === INTERVAL) interval = viewOf(segment).getUint16(4)
  }
  const scan = rest[rest.length - 1]
  const count = scan[4]
  if (count !== components.length) throw new Error('lossless JPEG in several scans: predict.py reads it')
  const tables = Array.from({ length: count }, (_, i) => known.get(scan[6 + 2 * i] >> 4))
  if (tables.includes(undefined)) throw new Error(DAMAGED)
  const [predictor, , shift] = scan.subarray(5 + 2 * count)
  // Decoders do not agree on what the first sample of such a picture is.
  if (shift & 15) throw new Error('lossless JPEG with a point transform')
  if (predictor < 1 || predictor > 7) throw new Error(`predictor ${predictor}`)
  const parts = partsOf(scan.subarray(2 + viewOf(scan).getUint16(2)))
  return { tables: /** @type {Uint16Array[]} */ (tables), predictor, interval, parts }
}

/**
 * The data of a scan between its restarts, without the zeros that are put behind 255 (B.1.1.5).
 * @param {Uint8Array} data up to the end of the picture
 */
function partsOf(data) {
  const parts = []
  /** @type {Uint8Array[]} */
  let pieces = []
  let start = 0
  for (let at = data.indexOf(0xff); at >= 0; at = data.indexOf(0xff, at + 2)) {
    const next = data[at + 1]
    pieces.push(data.subarray(start, next === 0 ? at + 1 : at))
    start = at + 2
    if (next === 0) continue
    parts.push(joined(pieces))
    pieces = []
    if (next < 0xd0 || next > 0xd7) break // no restart, but the end
  }
  return parts
}

/**
 * Reads Huffman tables: what any 16 bits begin with, as 256 times the length of the code, plus its value (annex C).
 * @param {Uint8Array} body of a segment
 * @param {Map<number, Uint16Array>} known gets them, by their numbers
 */
function readTables(body, known) {
  for (let at = 0; at + 17 <= body.length; ) {
    const counts = body.subarray(at + 1, at + 17)
    const table = new Uint16Array(65536)
    let [code, value] = [0, at + 17]
    for (let length = 1; length <= 16; length++) {
      const span = 2 ** (16 - length)
      for (let k = 0; k < counts[length - 1]; k++, code += span) {
        if (value >= body.length || code + span > 65536 || body[value] > 16) throw new Error(DAMAGED)
        table.fill(256 * length + body[value++], code, code + span)
      }
    }
    known.set(body[at] & 15, table)
    at = value
  }
}

/** Reads differences from the data between two restarts. */
class Bits {
  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data
    this.at = 0 // the next byte
    this.held = 0 // bits that were read and not used, the lowest `count` of them
    this.count = 0
  }

  /** @param {number} wanted bits, at most 16; behind the end there are ones */
  peek(wanted) {
    while (this.count < wanted) {
      this.held = ((this.held & 0xffff) << 8) | (this.data[this.at++] ?? 0xff)
      this.count += 8
    }
    return (this.held >> (this.count - wanted)) & (2 ** wanted - 1)
  }

  /**
   * A coded difference (H.1.2.2).
   * @param {Uint16Array} table
   */
  difference(table) {
    const entry = table[this.peek(16)]
    if (!entry) throw new Error(DAMAGED)
    this.count -= entry >> 8
    const size = entry & 255
    if (size === 0) return 0
    if (size === 16) return 32768
    const value = this.peek(size)
    this.count -= size
    return value < 2 ** (size - 1) ? value - 2 ** size + 1 : value
  }

  /** Raises an error where data are missing or left, but for what fills the last word: something in them was wrong. */
  check() {
    const left = this.data.length - this.at + (this.count >> 3) // bytes
    if (left < 0 || left > 3) throw new Error(DAMAGED)
  }
}
