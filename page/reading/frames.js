// The first frame of a DICOM file's pixels: as they are, in RLE, or by a decoder of JPEG's family (DICOM PS3.5, 8, A.4
// and G).

import { joined, numbersOf, viewOf } from './bytes.js'
import { decodedJpeg, decodedJpeg2000, decodedJpegLs, decodedLossless } from './codecs.js'
import { named, oneLine, Unusable } from './limits.js'
import { CODINGS, isEncapsulated, nameOf, RLE } from './syntaxes.js'

/** @typedef {import('./dicom.js').Header} Header */
/** @typedef {import('./bytes.js').Values} Values */
/** @typedef {import('./film.js').Codec} Codec */
/**
 * @typedef {object} Frame
 * @property {Values} values with all bits that are allocated: of each pixel its samples, or plane by plane
 * @property {string} colours photometric interpretation of three samples, as they are now
 * @property {boolean} planes whether three samples are one plane behind the other
 */

const PHOTOMETRICS = [
  'MONOCHROME1',
  'MONOCHROME2',
  'PALETTE COLOR',
  'RGB',
  'YBR_FULL',
  'YBR_FULL_422',
  'YBR_ICT',
  'YBR_RCT',
  'HSV',
  'ARGB',
  'CMYK',
  'YBR_PARTIAL_422',
  'YBR_PARTIAL_420',
]
const [ITEM, SEQUENCE_END] = [0xfffee000, 0xfffee0dd]
const MAX_FRAGMENTS = 100_000
const DECODERS = { jpeg: decodedJpeg, lossless: decodedLossless, jpegls: decodedJpegLs, jpeg2000: decodedJpeg2000 }

/**
 * @param {Header} header
 * @param {Codec} codec
 * @returns {Promise<Frame>}
 */
export async function firstFrame(header, codec) {
  const name = oneLine(nameOf(header.syntax))
  const coding = CODINGS.get(header.syntax)
  if (isEncapsulated(header.syntax) && !coding && header.syntax !== RLE) {
    throw new Unusable(`a DICOM file in ${name}, which is not decoded`)
  }
  try {
    const planes = checkedPlanes(header)
    if (!isEncapsulated(header.syntax)) return asRgb(nativeFrame(header, planes), header)
    const encoded = firstEncoded(header)
    if (coding) return asRgb(await DECODERS[coding](encoded, header, codec), header)
    return asRgb({ values: runLengths(encoded, header), colours: header.photometric, planes: true }, header)
  } catch (error) {
    throw named(`pixels in ${name}`, error)
  }
}

/**
 * Checks what a header says of its pixels, as pydicom does, and says whether three samples are in planes.
 * @param {Header} header
 */
function checkedPlanes({ elements, allocated, stored, samples, photometric, frames }) {
  if (!(stored >= 1 && stored <= allocated)) {
    throw new Error(`A (0028,0101) 'Bits Stored' value of '${stored}' is invalid, it must be in the range (1, 64) and \
no greater than the (0028,0100) 'Bits Allocated' value of '${allocated}'`)
  }
  if (frames < 1)
    throw new Error(`A (0028,0008) 'Number of Frames' value of '${frames}' is invalid, it must be \
greater than or equal to 1`)
  if (!PHOTOMETRICS.includes(photometric)) {
    throw new Error(`Unknown (0028,0004) 'Photometric Interpretation' value '${photometric}'`)
  }
  const [representation] = elements.numbers('PixelRepresentation')
  if (representation !== 0 && representation !== 1) {
    throw new Error(`A (0028,0103) 'Pixel Representation' value of '${representation}' is invalid, it must be 0 or 1`)
  }
  if (samples === 1) return false
  const [planar] = elements.numbers('PlanarConfiguration')
  if (planar == null) throw new Error("Missing required element: (0028,0006) 'Planar Configuration'")
  if (planar !== 0 && planar !== 1) {
    throw new Error(`A (0028,0006) 'Planar Configuration' value of '${planar}' is invalid, it must be 0 or 1`)
  }
  return planar === 1
}

/**
 * @param {Header} header
 * @param {boolean} planes
 * @returns {Frame}
 */
function nativeFrame(header, planes) {
  const { rows, columns, samples, allocated, photometric, frames, little, signed } = header
  const element = /** @type {import('./elements.js').Element} */ (header.elements.get('PixelData'))
  const halved = photometric === 'YBR_FULL_422' // two pixels share their differences of colour
  let length = rows * columns * samples * (allocated === 1 ? 1 / 8 : allocated / 8)
  if (halved) length = Math.floor(length / 3) * 2
  const [expected, actual] = [Math.ceil(length * frames), element.value.length]
  const padded = expected + (expected % 2)
  if (actual < expected) {
    throw new Error(`The number of bytes of pixel data is less than expected (${actual} vs ${padded} bytes) - the \
dataset may be corrupted, have an invalid group 0028 element value, or the transfer syntax may be incorrect`)
  }
  if (halved && actual > padded && actual >= Math.ceil((Math.floor(expected / 2) * 3) / 2) * 2) {
    throw new Error(
      `The number of bytes of pixel data is a third larger than expected (${actual} vs ${expected} bytes)`,
    )
  }
  let bytes = element.value.subarray(0, Math.ceil(length))
  if (allocated === 8 && !little && element.vr === 'OW') bytes = swapped(element.value, bytes.length)
  if (allocated === 1) return { values: bitsOf(bytes, rows * columns * samples), colours: photometric, planes }
  const values = numbersOf(bytes, allocated, little, signed)
  if (!halved) return { values, colours: photometric, planes }
  return { values: unhalved(values), colours: 'YBR_FULL', planes }
}

/**
 * Pixels of one bit, the first one in the lowest bit of a byte.
 * @param {Uint8Array} bytes
 * @param {number} count
 */
function bitsOf(bytes, count) {
  return Uint8Array.from({ length: count }, (_, i) => (bytes[i >> 3] >> (i & 7)) & 1)
}

/**
 * Bytes in words of big endian, each pair exchanged.
 * @param {Uint8Array} bytes
 * @param {number} count of bytes that are wanted
 */
function swapped(bytes, count) {
  return Uint8Array.from({ length: count }, (_, i) => bytes[i ^ 1])
}

/**
 * Y1 Y2 B R as Y1 B R Y2 B R (PS3.3, C.7.6.3.1.2).
 * @param {Values} values
 */
function unhalved(values) {
  const whole = new Int32Array((values.length / 2) * 3)
  for (let i = 0; i < values.length; i++) {
    const [group, place] = [(i >> 2) * 6, i & 3]
    if (place < 2) whole[group + 3 * place] = values[i]
    else whole[group + place - 1] = whole[group + place + 2] = values[i]
  }
  return whole
}

/**
 * YBR_FULL of 8 bits as RGB, in numpy's 32 bits (PS3.3, C.7.6.3.1.2).
 * @param {Frame} frame
 * @param {Header} header
 * @returns {Frame}
 */
function asRgb(frame, { samples, allocated, rows, columns, signed }) {
  const { values, colours, planes } = frame
  if (allocated !== 8 || (colours !== 'YBR_FULL' && colours !== 'YBR_FULL_422')) return frame
  if (samples !== 3 || signed) throw new Error(`${colours} of ${signed ? 'signed samples' : 'one sample'}`)
  const count = rows * columns
  const [step, plane] = planes ? [1, count] : [3, 1]
  const rgb = new Uint8Array(values.length)
  const [greenBlue, blueBlue] = [(-0.114 * 1.772) / 0.587, 1.772].map(Math.fround)
  const [redRed, greenRed] = [1.402, (-0.299 * 1.402) / 0.587].map(Math.fround)
  for (let i = 0; i < count; i++) {
    const at = i * step
    const [y, blue, red] = [values[at], values[at + plane] - 128, values[at + 2 * plane] - 128]
    rgb[at] = level(Math.fround(y + redRed * red))
    rgb[at + plane] = level(Math.fround(Math.fround(y + greenBlue * blue) + greenRed * red))
    rgb[at + 2 * plane] = level(Math.fround(y + blueBlue * blue))
  }
  return { values: rgb, colours: 'RGB', planes }
}

/** @param {number} value */
function level(value) {
  return Math.min(Math.max(Math.floor(Math.fround(value + 0.5)), 0), 255)
}

/**
 * The compressed bytes of the first frame.
 * @param {Header} header
 */
function firstEncoded({ elements, frames }) {
  const bytes = /** @type {import('./elements.js').Element} */ (elements.get('PixelData')).value
  const [offsets, ...fragments] = fragmentsOf(bytes)
  if (!fragments.length) throw new Error('there is no fragment of pixel data')
  // Where the second frame starts; without a table of offsets, the first one ends with JPEG's mark of an end.
  const second = offsets.body.length >= 8 ? viewOf(offsets.body).getUint32(4, true) : 0
  const start = offsets.body.length >= 4 ? viewOf(offsets.body).getUint32(0, true) : 0
  const base = fragments[0].at
  let own = fragments
  if (offsets.body.length) {
    own = fragments.filter(({ at }) => at - base >= start && (!second || at - base < second))
  } else if (frames === fragments.length) {
    own = fragments.slice(0, 1)
  } else if (frames > 1) {
    const last = fragments.findIndex(({ body }) => endsFrame(body))
    own = last < 0 ? fragments : fragments.slice(0, last + 1)
  }
  return joined(own.map(({ body }) => body))
}

/** @param {Uint8Array} body */
function endsFrame(body) {
  const tail = body.subarray(Math.max(0, body.length - 10))
  return tail.some((byte, i) => byte === 0xff && tail[i + 1] === 0xd9)
}

/**
 * The items of encapsulated pixels; the first one is the table of offsets.
 * @param {Uint8Array} bytes
 */
function fragmentsOf(bytes) {
  const view = viewOf(bytes)
  const items = []
  for (let at = 0; at + 8 <= bytes.length; ) {
    const [tag, length] = [
      view.getUint16(at, true) * 65536 + view.getUint16(at + 2, true),
      view.getUint32(at + 4, true),
    ]
    if (tag === SEQUENCE_END) break
    if (tag !== ITEM) throw new Error('an unexpected tag between the fragments of the pixel data')
    items.push({ at, body: bytes.subarray(at + 8, at + 8 + length) })
    if (items.length > MAX_FRAGMENTS) throw new Error(`pixel data in more than ${MAX_FRAGMENTS} fragments`)
    at += 8 + length
  }
  if (!items.length) throw new Error('the pixel data are not in fragments')
  return items
}

/**
 * Pixels in RLE: of each sample its bytes, the highest ones first, each in a segment (PS3.5, G).
 * @param {Uint8Array} encoded
 * @param {Header} header
 * @returns {Values} plane by plane
 */
function runLengths(encoded, { rows, columns, samples, allocated, signed }) {
  const [count, size] = [rows * columns, allocated / 8]
  if (allocated % 8) throw new Error(`Unable to decode RLE encoded pixel data with ${allocated} bits allocated`)
  if (encoded.length < 64) throw new Error('The RLE header can only be 64 bytes long')
  const view = viewOf(encoded)
  const segments = view.getUint32(0, true)
  if (segments !== samples * size) {
    throw new Error(`The number of RLE segments in the pixel data doesn't match the expected amount (${segments} vs. \
${samples * size} segments)`)
  }
  const bytes = new Uint8Array(count * samples * size)
  for (let segment = 0; segment < segments; segment++) {
    const start = view.getUint32(4 + 4 * segment, true)
    const end = segment + 1 < segments ? view.getUint32(8 + 4 * segment, true) : encoded.length
    const first = Math.floor(segment / size) * count * size + (size - 1 - (segment % size))
    unrolled(encoded.subarray(start, end), bytes, first, size, count)
  }
  return numbersOf(bytes, allocated, true, signed)
}

/**
 * Writes a segment's bytes to every `step`th place of `bytes`.
 * @param {Uint8Array} segment
 * @param {Uint8Array} bytes
 * @param {number} first
 * @param {number} step
 * @param {number} count of bytes
 */
function unrolled(segment, bytes, first, step, count) {
  let done = 0
  for (let at = 0; at < segment.length && done < count; ) {
    const head = segment[at++]
    if (head === 128) continue // says nothing
    const repeated = head > 128
    const length = Math.min(repeated ? 257 - head : head + 1, count - done)
    if (at + (repeated ? 1 : length) > segment.length) break
    for (let i = 0; i < length; i++) bytes[first + step * done++] = segment[repeated ? at : at + i]
    at += repeated ? 1 : head + 1
  }
  if (done < count) {
    throw new Error(
      `The amount of decoded RLE segment data doesn't match the expected amount (${done} vs. ${count} bytes)`,
    )
  }
}
