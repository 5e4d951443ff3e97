// The grey levels of a PNG, as Pillow reads them: transparency, profile and gamma are ignored (PNG, third edition).

import { luma, Saturation } from './colours.js'
import { checkSize, oneLine } from './limits.js'
import { rounded } from './numbers.js'
import { eachRow } from './scanlines.js'
import { orientationOf } from './turning.js'

/**
 * @typedef {object} Header what the chunks of a PNG say
 * @property {number} width
 * @property {number} height
 * @property {number} depth bits of a sample: 1, 2, 4, 8 or 16
 * @property {number} colour 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA
 * @property {boolean} interlaced
 * @property {Uint8Array} palette RGB, three bytes an entry
 * @property {number} significant bits, as sBIT says of 16-bit grey; 0 where nothing does
 * @property {number} orientation EXIF's, 1 to 8
 * @property {Uint8Array[]} data the deflated pixels
 * @property {boolean} cut whether the file ends in the middle of a chunk
 */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]
/** Samples of a pixel, by colour type. @type {Record<number, number>} */
const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }
/** Bits that a sample may have, by colour type. @type {Record<number, number[]>} */
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] }
const TRUNCATED = 'image file is truncated'
const CHECKSUMS = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n
  for (let k = 0; k < 8; k++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1
  return value
})

/** @param {Uint8Array} content */
export function isPng(content) {
  return SIGNATURE.every((byte, i) => content[i] === byte)
}

/**
 * @param {Uint8Array} content the bytes of a PNG
 * @returns {Promise<{grey: Uint8Array, height: number, width: number, mode: string, warning: string, guessed: boolean,
 *   saturation: number, orientation: number}>} not turned; `guessed` where the file does not say how many bits count
 * @throws {Error} with the reason
 */
export async function readPng(content) {
  const header = headerOf(content)
  checkSize(header.width, header.height)
  const picture = { height: header.height, width: header.width, orientation: header.orientation }
  try {
    return { ...picture, ...(await pixelsOf(header)) }
  } catch (error) {
    throw header.cut ? new Error(TRUNCATED) : error
  }
}

/** @param {Header} header */
async function pixelsOf(header) {
  if (header.colour === 0 && header.depth === 16) {
    const values = await deepValues(header)
    const { grey, bits } = greyOf16Bits(values, header.significant)
    const warning = bits < 16 ? `${bits} bits in a 16-bit PNG` : ''
    return { grey, mode: 'I;16', warning, guessed: bits < 16 && !header.significant, saturation: 0 }
  }
  const samples = SAMPLES[header.colour]
  const grey = new Uint8Array(header.width * header.height)
  const saturation = new Saturation(header.height, header.width, header.colour === 3)
  await eachRow(header, header.depth * samples, shallowRows(header, grey, saturation))
  const coloured = header.colour !== 0 && !(header.colour === 4 && header.depth === 8)
  return { grey, mode: modeOf(header), warning: '', guessed: false, saturation: coloured ? saturation.mean() : 0 }
}

/**
 * Pillow's name for how the pixels are stored.
 * @param {Header} header
 */
function modeOf({ colour, depth }) {
  if (colour === 0) return depth === 1 ? '1' : 'L'
  if (colour === 4) return depth === 8 ? 'LA' : 'RGBA'
  return colour === 3 ? 'P' : colour === 2 ? 'RGB' : 'RGBA'
}

/**
 * @param {Uint8Array} content
 * @returns {Header}
 */
function headerOf(content) {
  const view = new DataView(content.buffer, content.byteOffset, content.length)
  /** @type {Header | null} */
  let header = null
  let over = false // the pixels: chunks after them are read as long as they are whole
  for (let at = 8; at + 8 <= content.length; ) {
    const [length, kind] = [view.getUint32(at), String.fromCharCode(...content.subarray(at + 4, at + 8))]
    if (kind === 'IEND') break
    const end = at + 8 + length
    const body = content.subarray(at + 8, end)
    if (kind !== 'IDAT') {
      const whole = end + 4 <= content.length && checksum(content.subarray(at + 4, end)) === view.getUint32(end)
      if (!whole && over) break
      if (!whole && end + 4 > content.length) throw new Error(TRUNCATED)
      if (!whole) throw new Error(`broken PNG file (bad header checksum in ${oneLine(kind)})`)
    }
    if (end > content.length && header) header.cut = true
    if (kind === 'IHDR' && !header) header = startOf(body)
    else if (!header) throw new Error('broken PNG file (no IHDR)')
    else if (kind === 'IDAT') {
      if (!over) header.data.push(body)
    } else {
      over = header.data.length > 0
      if (kind === 'PLTE') header.palette = body
      if (kind === 'eXIf') header.orientation = orientationOf(body)
      if (kind === 'sBIT' && !over) header.significant = body[0] <= 16 ? body[0] : 0
    }
    at = end + 4
  }
  if (!header?.data.length) throw new Error(TRUNCATED)
  return header
}

/**
 * @param {Uint8Array} body of the IHDR chunk
 * @returns {Header}
 */
function startOf(body) {
  if (body.length < 13) throw new Error('broken PNG file (short IHDR)')
  const view = new DataView(body.buffer, body.byteOffset)
  const [depth, colour] = [body[8], body[9]]
  if (!DEPTHS[colour]?.includes(depth)) throw new Error(`a PNG of colour type ${colour} with ${depth} bits`)
  if (body[11]) throw new Error('unknown filter category')
  const size = { width: view.getUint32(0), height: view.getUint32(4) }
  return {
    ...size,
    depth,
    colour,
    interlaced: body[12] !== 0,
    palette: new Uint8Array(),
    significant: 0,
    orientation: 1,
    data: [],
    cut: false,
  }
}

/** @param {Uint8Array} bytes */
function checksum(bytes) {
  let value = 0xffffffff
  for (const byte of bytes) value = CHECKSUMS[(value ^ byte) & 255] ^ (value >>> 8)
  return ~value >>> 0
}

/**
 * What puts the grey levels of each row where they belong, and its colours into `saturation`.
 * @param {Header} header of anything but 16-bit grey
 * @param {Uint8Array} grey (height, width)
 * @param {Saturation} saturation
 * @returns {import('./scanlines.js').UseRow}
 */
function shallowRows(header, grey, saturation) {
  const { width, depth, colour } = header
  const bytes = depth >> 3 // of a sample; the first one is enough, as Pillow too rounds 16 bits down
  if (colour === 2 || colour === 6) {
    const size = bytes * (colour === 2 ? 3 : 4)
    return (row, count, y, x, step) => {
      for (let i = 0, from = 0, to = x; i < count; i++, from += size, to += step) {
        const [red, green, blue] = [row[from], row[from + bytes], row[from + 2 * bytes]]
        grey[y * width + to] = luma(red, green, blue)
        saturation.add(y, to, red, green, blue)
      }
    }
  }
  if (colour === 4) {
    return (row, count, y, x, step) => {
      for (let i = 0, to = y * width + x; i < count; i++, to += step) grey[to] = row[2 * bytes * i]
    }
  }
  const levels = colour === 3 ? levelsOfPalette(header.palette) : null
  const factor = 255 / (2 ** depth - 1) // a whole number
  const mask = 2 ** depth - 1
  return (row, count, y, x, step) => {
    for (let i = 0, to = x; i < count; i++, to += step) {
      const bit = i * depth
      const value = (row[bit >> 3] >> (8 - depth - (bit & 7))) & mask
      grey[y * width + to] = levels ? levels[value] : value * factor
      if (levels) saturation.add(y, to, ...colourOf(header.palette, value))
    }
  }
}

/**
 * Red, green and blue of an entry; of one that is missing, black.
 * @param {Uint8Array} palette
 * @param {number} entry
 * @returns {[number, number, number]}
 */
function colourOf(palette, entry) {
  return [palette[3 * entry] ?? 0, palette[3 * entry + 1] ?? 0, palette[3 * entry + 2] ?? 0]
}

/**
 * The grey level of each entry of a palette.
 * @param {Uint8Array} palette
 */
function levelsOfPalette(palette) {
  return Uint8Array.from({ length: 256 }, (_, entry) => luma(...colourOf(palette, entry)))
}

/**
 * The values of 16-bit grey pixels, (height, width).
 * @param {Header} header
 */
async function deepValues(header) {
  const { width, height } = header
  const values = new Uint16Array(width * height)
  await eachRow(header, 16, (row, count, y, x, step) => {
    for (let i = 0, to = y * width + x; i < count; i++, to += step) values[to] = (row[2 * i] << 8) | row[2 * i + 1]
  })
  return values
}

/**
 * Values of 16 bits as grey levels: of all bits, or of as many as the file says or the largest value needs, such as a
 * detector's 12.
 * @param {Uint16Array} values
 * @param {number} significant what the file says, 0 if it does not
 * @returns {{grey: Uint8Array, bits: number}}
 */
function greyOf16Bits(values, significant) {
  let largest = 0
  for (let i = 0; i < values.length; i++) if (values[i] > largest) largest = values[i]
  let bits = significant
  if (!bits || largest >= 2 ** bits) bits = [10, 12, 14, 16].find((count) => largest < 2 ** count) ?? 16
  const factor = 255 / (2 ** bits - 1)
  const levels = Uint8Array.from({ length: 2 ** bits }, (_, value) => rounded(value * factor))
  const grey = new Uint8Array(values.length)
  for (let i = 0; i < grey.length; i++) grey[i] = levels[values[i]]
  return { grey, bits }
}
