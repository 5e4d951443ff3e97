// The grey levels of a JPEG, by libjpeg-turbo, as Pillow has them: a browser's own decoder takes six times as long, and
// applies profiles. It is given a copy which says that its colours are not to be converted: then the first of three
// channels is the brightness that Pillow too takes from the file, and not one computed from clipped colours.
// ITU-T T.81 (JPEG), T.871 (JFIF), T.872, 6.5.3 (Adobe's marker).

import { joined } from './bytes.js'
import { luma } from './colours.js'
import { checkSize } from './limits.js'
import { orientationOf } from './turning.js'

/**
 * @typedef {object} Frame what the head of a JPEG says
 * @property {number} width
 * @property {number} height
 * @property {number} kind of the coding: 0xc0 is baseline, 0xc2 progressive, 0xc3 lossless, 0xf7 JPEG-LS
 * @property {number} precision bits of a sample
 * @property {number[]} components their identifiers
 * @property {boolean} jfif whether JFIF's marker is there
 * @property {number | null} transform Adobe's: 0 for colours as they are, 1 for YCbCr, 2 for YCCK
 * @property {Uint8Array | null} exif EXIF data from their byte order on
 * @property {Uint8Array[]} rest all that decoding needs: tables, frame and scans
 */
/** @typedef {import('./film.js').Codec} Codec */

const MAX_SCANS = 100 // of a progressive JPEG, which has about 10; each is a pass over the whole picture
const DAMAGED = 'broken data stream when reading image file'
const [START, END, SCAN] = [0xd8, 0xd9, 0xda] // markers

/** @param {Uint8Array} content */
export function isJpeg(content) {
  return content[0] === 0xff && content[1] === START
}

/**
 * @param {Uint8Array} content the bytes of a JPEG
 * @param {Codec} codec
 * @returns {Promise<{grey: Uint8Array, height: number, width: number, mode: string, warning: string, guessed: boolean,
 *   saturation: number, orientation: number}>} not turned yet
 * @throws {Error} with the reason
 */
export async function readJpeg(content, codec) {
  const frame = frameOf(content)
  const { width, height, components, precision } = frame
  checkSize(width, height)
  if (precision !== 8) throw new Error(`cannot handle ${precision}-bit layers`)
  const said = { height, width, warning: '', guessed: false, orientation: orientationOf(frame.exif) }
  const data = await decoded(frame, codec)
  if (components.length === 1) return { ...said, grey: data, mode: 'L', saturation: 0 }
  const grey = new Uint8Array(width * height)
  const rgb = !isLuminance(frame)
  for (let i = 0, from = 0; i < grey.length; i++, from += 3) {
    grey[i] = rgb ? luma(data[from], data[from + 1], data[from + 2]) : data[from]
  }
  // Of three colours that are RGB, predict.py measures none.
  return { ...said, grey, mode: 'RGB', saturation: rgb ? 0 : saturationOf(data, height, width) }
}

/**
 * One or three channels of a JPEG, row by row, as they are in the file: no conversion of colours, nothing turned.
 * @param {Frame} frame
 * @param {Codec} codec
 * @returns {Promise<Uint8Array>}
 * @throws {Error} also of damage that libjpeg would repair: who knows what of such a film is left
 */
export async function decoded(frame, codec) {
  const { width, height, components } = frame
  if (components.length === 4) throw new Error('four colours, for printing: predict.py reads them')
  if (![1, 3].includes(components.length)) throw new Error(`cannot handle ${components.length}-layer images`)
  const turbo = await codec('libjpeg-turbo-8bit')
  const decoder = new turbo.JPEGDecoder()
  try {
    const file = unadorned(frame)
    decoder.getEncodedBuffer(file.length).set(file)
    decoder.decode()
    const data = decoder.getDecodedBuffer()
    if (data.length !== width * height * components.length) throw new Error(DAMAGED)
    return data.slice() // the module's memory is its own
  } catch {
    throw new Error(DAMAGED)
  } finally {
    decoder.delete()
  }
}

/**
 * Whether three channels are brightness and two differences of colour: libjpeg's rule (jdapimin.c).
 * @param {Frame} frame
 */
export function isLuminance({ jfif, transform, components }) {
  if (components.length !== 3) return false
  if (jfif) return true
  if (transform !== null) return transform !== 0
  return components.join() !== '82,71,66' // "RGB"
}

/**
 * Follows the markers of a JPEG up to its end; what comes after that, such as a video, is ignored.
 * @param {Uint8Array} content
 * @returns {Frame}
 * @throws {Error} where it has no end, no frame or too many scans
 */
export function frameOf(content) {
  if (!isJpeg(content)) throw new Error('not a JPEG')
  /** @type {Omit<Frame, 'width' | 'height'> & {width?: number, height?: number}} */
  const found = { kind: 0, precision: 0, components: [], jfif: false, transform: null, exif: null, rest: [] }
  let [scans, scansAt] = [0, 0]
  for (const { kind, at, body } of markersOf(content)) {
    if (kind === END) {
      if (!scans || found.width === undefined) break
      found.rest.push(content.subarray(scansAt, at + 2))
      return /** @type {Frame} */ (found)
    }
    if (kind === SCAN && ++scans > MAX_SCANS) throw new Error(`a JPEG of more than ${MAX_SCANS} scans`)
    if (kind === SCAN && scans === 1) scansAt = at
    if (scans) continue // all between the first scan and the end goes to the decoder as it is
    if (kind >= 0xe0 && kind <= 0xef) {
      noteApplication(found, kind, body)
    } else if (kind !== 0xfe) {
      if (isFrame(kind)) Object.assign(found, sizeOf(kind, body))
      found.rest.push(content.subarray(at, at + 4 + body.length))
    }
  }
  throw new Error('image file is truncated')
}

/**
 * The markers of a JPEG that have a length, and its end, as libjpeg finds them (T.81, B.1.1).
 * @param {Uint8Array} content
 * @returns {Generator<{kind: number, at: number, body: Uint8Array}>} where it starts, and what follows its length
 */
function* markersOf(content) {
  for (let place = content.indexOf(0xff, 2); place >= 0; place = content.indexOf(0xff, place)) {
    while (content[place] === 0xff) place++
    const kind = content[place++]
    if (kind === undefined) return
    // Those below are none, and may stand in JPEG-LS's data.
    if (kind < 0xc0 || (kind >= 0xd0 && kind <= START)) continue
    const length = kind === END ? 2 : Math.max(2, (content[place] << 8) | content[place + 1])
    yield { kind, at: place - 2, body: content.subarray(place + 2, place + length) }
    place += length
  }
}

/** @param {number} kind of a marker */
function isFrame(kind) {
  return (kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind)) || kind === 0xf7
}

/**
 * @param {number} kind
 * @param {Uint8Array} body of the frame's header
 */
function sizeOf(kind, body) {
  if (body.length < 6) throw new Error(DAMAGED)
  const [height, width] = [(body[1] << 8) | body[2], (body[3] << 8) | body[4]]
  const components = Array.from({ length: body[5] }, (_, i) => body[6 + 3 * i])
  return { kind, width, height, precision: body[0], components }
}

/**
 * What an application's segment says that changes the picture.
 * @param {Pick<Frame, 'jfif' | 'transform' | 'exif'>} found
 * @param {number} kind
 * @param {Uint8Array} body
 */
function noteApplication(found, kind, body) {
  const starts = (/** @type {string} */ text) => [...text].every((letter, i) => body[i] === letter.charCodeAt(0))
  if (kind === 0xe0 && starts('JFIF\0') && body.length >= 14) found.jfif = true
  if (kind === 0xee && starts('Adobe') && body.length >= 12) found.transform = body[11]
  if (kind === 0xe1 && starts('Exif\0\0')) {
    // More than 64 kB are in several segments.
    found.exif = found.exif ? joined([found.exif, body.subarray(6)]) : body.subarray(6)
  }
}

/**
 * A JPEG of the same pixels that says nothing but that its colours are as they are.
 * @param {Frame} frame
 */
function unadorned({ components, rest }) {
  const adobe = Uint8Array.of(0xff, 0xee, 0, 14, ...new TextEncoder().encode('Adobe'), 0, 100, 0, 0, 0, 0, 0)
  return joined([Uint8Array.of(0xff, START), ...(components.length > 1 ? [adobe] : []), ...rest])
}

/**
 * Mean saturation of the first quarter of the rows, by blocks of up to 8 x 8 pixels, nearly as predict.py measures it;
 * 0 where all of them are grey but for JPEG's noise.
 * @param {Uint8Array} data brightness and two differences of colour
 * @param {number} height
 * @param {number} width
 */
function saturationOf(data, height, width) {
  const side = [8, 4, 2].find((count) => Math.min(height, width) >= 32 * count) ?? 1 // 32 blocks across, if it can be
  const [rows, columns] = [Math.ceil(height / 4 / side), Math.ceil(width / side)]
  let [total, coloured] = [0, false]
  for (let cell = 0; cell < rows * columns; cell++) {
    const [top, left] = [side * Math.floor(cell / columns), side * (cell % columns)]
    const [bottom, right] = [Math.min(top + side, height), Math.min(left + side, width)]
    const [y, cb, cr] = meanOf(data, width, [top, bottom], [left, right])
    coloured = coloured || Math.abs(cb - 128) > 3 || Math.abs(cr - 128) > 3 // 128 is no colour
    const blue = y + 1.772 * (cb - 128)
    const red = y + 1.402 * (cr - 128)
    const green = (y - 0.299 * red - 0.114 * blue) / 0.587
    const levels = [red, green, blue].map((level) => Math.min(Math.max(Math.round(level), 0), 255))
    total += Math.max(...levels) - Math.min(...levels)
  }
  return coloured ? total / (rows * columns) : 0
}

/**
 * The mean of each of three channels over a block.
 * @param {Uint8Array} data
 * @param {number} width of the picture
 * @param {[number, number]} rows the first one, and the one behind the last one
 * @param {[number, number]} columns likewise
 */
function meanOf(data, width, [top, bottom], [left, right]) {
  const sums = [0, 0, 0]
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      for (let k = 0; k < 3; k++) sums[k] += data[3 * (y * width + x) + k]
    }
  }
  return sums.map((sum) => sum / ((bottom - top) * (right - left)))
}
