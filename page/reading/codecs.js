// One frame in JPEG's family, of which DICOM files hold several: decoded here, or by a module that is loaded when the
// first such film comes. All sizes are compared with the header's before anything is decoded.

import { numbersOf, viewOf } from './bytes.js'
import { decoded, frameOf } from './jpeg.js'
import { losslessValues } from './lossless.js'

/** @typedef {import('./dicom.js').Header} Header */
/** @typedef {import('./frames.js').Frame} Frame */
/** @typedef {import('./film.js').Codec} Codec */

const BASELINE = '1.2.840.10008.1.2.4.50'

/**
 * JPEG of 8 bits, lossy.
 * @param {Uint8Array} encoded
 * @param {Header} header
 * @param {Codec} codec
 * @returns {Promise<Frame>}
 */
export async function decodedJpeg(encoded, header, codec) {
  const frame = frameOf(encoded)
  checkFrame(header, frame.width, frame.height, frame.components.length)
  if (frame.precision !== 8) throw new Error(`samples of ${frame.precision} bits: predict.py reads them`)
  return { values: await decoded(frame, codec), colours: coloursOf(frame, header), planes: false }
}

/**
 * What three channels are, where the frame contradicts the header: pydicom's rule.
 * @param {{components: number[], jfif: boolean}} frame
 * @param {Header} header
 */
function coloursOf({ components, jfif }, { photometric, samples, syntax }) {
  if (samples !== 3) return photometric
  if (['82,71,66', '114,103,98'].includes(components.join())) return 'RGB'
  if (jfif && !photometric.includes('YBR')) return syntax === BASELINE ? 'YBR_FULL_422' : 'YBR_FULL'
  return photometric
}

/**
 * Lossless JPEG.
 * @param {Uint8Array} encoded
 * @param {Header} header
 * @returns {Frame}
 */
export function decodedLossless(encoded, header) {
  const frame = frameOf(encoded)
  checkFrame(header, frame.width, frame.height, frame.components.length)
  const { precision } = frame
  if (precision > Math.min(header.allocated, 16)) throw new Error(`samples of ${precision} bits`)
  const values = losslessValues(frame)
  // The bits of a negative number fill what is allocated, or only the frame's precision, which has no sign.
  const signed = header.signed && precision === header.allocated
  const right = signed ? new Int32Array(values).map((value) => signedOf(value, precision)) : values
  return { values: right, colours: coloursOf(frame, header), planes: false }
}

/**
 * JPEG-LS (ISO/IEC 14495-1), by CharLS.
 * @param {Uint8Array} encoded
 * @param {Header} header
 * @param {Codec} codec
 * @returns {Promise<Frame>}
 */
export async function decodedJpegLs(encoded, header, codec) {
  const frame = frameOf(encoded)
  checkFrame(header, frame.width, frame.height, frame.components.length)
  const charls = await codec('charls')
  const { values, decoder } = decodedInModule(charls, 'JpegLSDecoder', encoded, frame.precision, false)
  const planes = decoder.getInterleaveMode() === 0 && header.samples === 3
  decoder.delete()
  // JPEG-LS knows no sign: the highest bit of the frame's precision is it.
  const signed = header.signed ? values.map((value) => signedOf(value, frame.precision)) : values
  return { values: signed, colours: coloursOf(frame, header), planes }
}

/**
 * JPEG 2000 (ITU-T T.800), and its high-throughput kind (T.814), by OpenJPEG.
 * @param {Uint8Array} encoded
 * @param {Header} header
 * @param {Codec} codec
 * @returns {Promise<Frame>}
 */
export async function decodedJpeg2000(encoded, header, codec) {
  const { width, height, components, precision, signed, depths } = sizeOf2000(encoded)
  checkFrame(header, width, height, components)
  const openjpeg = await codec('openjpeg')
  // The module clips negative numbers of 8 bits to 0. It is told that they have no sign: then half the range is added.
  const middle = signed && precision <= 8 ? 2 ** (precision - 1) : 0
  const own = middle ? encoded.slice() : encoded
  for (let k = 0; k < (middle ? components : 0); k++) own[depths + 3 * k] &= 127
  const { values, decoder } = decodedInModule(openjpeg, 'J2KDecoder', own, precision, signed && !middle)
  decoder.delete()
  if (middle) for (let i = 0; i < values.length; i++) values[i] -= middle
  const { photometric } = header
  if (photometric === 'YBR_ICT' || photometric === 'YBR_RCT') return { values, colours: 'RGB', planes: false }
  const grey = photometric === 'MONOCHROME1' || photometric === 'MONOCHROME2'
  if (signed === header.signed || !grey) return { values, colours: photometric, planes: false }
  // The frame and the header do not agree on the sign: the header is right.
  const range = 2 ** precision
  const right = values.map((value) => (header.signed ? signedOf(value, precision) : (value + range) % range))
  return { values: right, colours: photometric, planes: false }
}

/**
 * @param {Header} header
 * @param {number} width
 * @param {number} height
 * @param {number} components
 */
function checkFrame({ columns, rows, samples }, width, height, components) {
  if (width === columns && height === rows && components === samples) return
  throw new Error(`${width} x ${height} pixels of ${components} samples, where the header says ${columns} x ${rows} of \
${samples}`)
}

/**
 * @param {any} module of Emscripten's
 * @param {string} kind of its decoder
 * @param {Uint8Array} encoded
 * @param {number} precision in bits
 * @param {boolean} signed
 * @returns {{values: Int32Array, decoder: any}} the caller deletes the decoder
 */
function decodedInModule(module, kind, encoded, precision, signed) {
  if (precision > 16) throw new Error(`samples of ${precision} bits`)
  const decoder = new module[kind]()
  try {
    decoder.getEncodedBuffer(encoded.length).set(encoded)
    decoder.decode()
    const bytes = decoder.getDecodedBuffer().slice() // the module's memory is its own
    return { values: new Int32Array(numbersOf(bytes, precision > 8 ? 16 : 8, true, signed)), decoder }
  } catch (error) {
    decoder.delete()
    // A number is a C++ exception.
    throw new Error(typeof error === 'number' ? module.getExceptionMessage?.(error) || 'damaged data' : String(error))
  }
}

/**
 * A number of so many bits as one with a sign.
 * @param {number} value
 * @param {number} bits
 */
function signedOf(value, bits) {
  return value >= 2 ** (bits - 1) ? value - 2 ** bits : value
}

/**
 * The size of a JPEG 2000 picture, and where its depths stand, from the SIZ marker that stands first (T.800, A.5.1),
 * also within a JP2 file.
 * @param {Uint8Array} encoded
 */
function sizeOf2000(encoded) {
  const view = viewOf(encoded)
  let at = 0
  if (encoded.length > 12 && view.getUint32(4) === 0x6a502020) {
    for (at = 12; at + 8 <= encoded.length && view.getUint32(at + 4) !== 0x6a703263; ) at += view.getUint32(at) || 8
    at += 8
  }
  if (at + 43 > encoded.length || view.getUint32(at) !== 0xff4fff51) throw new Error('not JPEG 2000')
  const [right, bottom, left, top] = [8, 12, 16, 20].map((place) => view.getUint32(at + place))
  checkTiles(encoded, at)
  const depth = encoded[at + 42]
  return {
    width: right - left,
    height: bottom - top,
    components: view.getUint16(at + 40),
    precision: (depth & 127) + 1,
    signed: depth > 127,
    depths: at + 42,
  }
}

/**
 * Refuses a picture that is cut off: OpenJPEG would leave the rest of it black (T.800, A.4.2).
 * @param {Uint8Array} encoded
 * @param {number} start of the code stream
 */
function checkTiles(encoded, start) {
  const view = viewOf(encoded)
  let at = start + 2
  while (at + 12 <= encoded.length && view.getUint16(at) !== 0xffd9) {
    const tile = view.getUint16(at) === 0xff90
    const length = tile ? view.getUint32(at + 6) : view.getUint16(at + 2) + 2
    if (tile && !length) return // it goes on to the end
    at += length
  }
  if (at > encoded.length) throw new Error('image file is truncated')
}
