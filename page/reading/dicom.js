// The grey levels of a DICOM file, as predict.py's read_dicom gives them: the first frame, through modality and VOI.

import { readDataSet } from './elements.js'
import { firstFrame } from './frames.js'
import { inflatedWhole } from './inflating.js'
import { greyOfLevels, greyOfPalette } from './levels.js'
import { checkSize, MAX_BYTES, named, namingPart, oneLine, Unusable } from './limits.js'
import { rounded } from './numbers.js'
import { byLevel, storedValues } from './stored.js'
import { nameOf } from './syntaxes.js'

/**
 * @typedef {object} Header what a DICOM file says of its pixels
 * @property {import('./elements.js').DataSet} elements
 * @property {string} syntax the UID of its transfer syntax
 * @property {boolean} little whether the least significant byte comes first
 * @property {number} rows
 * @property {number} columns
 * @property {number} samples 1 or 3, of a pixel
 * @property {string} photometric its photometric interpretation, in capitals
 * @property {number} allocated bits of a sample
 * @property {number} stored bits of it that count
 * @property {boolean} signed
 * @property {number} frames
 */
/** @typedef {import('./film.js').Codec} Codec */

/** @type {import('./tags.js').Name[]} */
const NEEDED = [
  'Rows',
  'Columns',
  'SamplesPerPixel',
  'PhotometricInterpretation',
  'BitsAllocated',
  'BitsStored',
  'PixelRepresentation',
]
const LUMA = [0.299, 0.587, 0.114].map(Math.fround) // of red, green and blue: ITU-R BT.601
const [EXPLICIT_BIG, DEFLATED, IMPLICIT] = ['1.2.840.10008.1.2.2', '1.2.840.10008.1.2.1.99', '1.2.840.10008.1.2']

/**
 * @param {Uint8Array} content the bytes of a DICOM file
 * @param {Codec} codec
 * @returns {Promise<{grey: Uint8Array, height: number, width: number, mode: string, warning: string, guessed: boolean,
 *   saturation: number}>}
 * @throws {Error} of one line, which names the part that cannot be used
 */
export async function readDicom(content, codec) {
  const header = await openDicom(content)
  const { photometric, rows, columns, frames } = header
  const frame = await firstFrame(header, codec)
  const grey = namingPart('pixels', () => {
    if (header.samples === 3) return greyOfColours(frame, header)
    const values = storedValues(frame.values, header)
    if (photometric === 'PALETTE COLOR') return byLevel(values, (levels) => greyOfPalette(levels, header))
    if (photometric === 'MONOCHROME1' || photometric === 'MONOCHROME2') {
      return byLevel(values, (levels) => greyOfLevels(levels, header))
    }
    throw new Error('its one channel is neither MONOCHROME nor PALETTE COLOR')
  })
  const warning = frames > 1 ? `the first of ${frames} frames is used` : ''
  return { grey, height: rows, width: columns, mode: `DICOM ${photometric}`, warning, guessed: false, saturation: 0 }
}

/**
 * The header of a DICOM file with a picture of a size that can be read.
 * @param {Uint8Array} content
 * @returns {Promise<Header>}
 */
async function openDicom(content) {
  const header = await partsOf(content)
    .then(headerOf)
    .catch((error) => {
      throw named('header', error)
    })
  checkSize(header.columns, header.rows)
  if (!header.syntax) throw new Unusable('a DICOM file without TransferSyntaxUID')
  return header
}

/**
 * The file's meta information and its data set.
 * @param {Uint8Array} content
 */
async function partsOf(content) {
  const explicit = { little: true, implicit: false }
  const { found: meta, end } = readDataSet(content, 132, explicit, (tag) => Math.floor(tag / 65536) !== 2)
  const syntax = meta.text('TransferSyntaxUID') ?? ''
  const deflated = syntax === DEFLATED
  const bytes = deflated ? await inflatedWhole(content.subarray(end), MAX_BYTES) : content
  const written = { little: syntax !== EXPLICIT_BIG, implicit: syntax === IMPLICIT || !syntax }
  return { meta, syntax, elements: readDataSet(bytes, deflated ? 0 : end, written).found }
}

/**
 * @param {Awaited<ReturnType<typeof partsOf>>} parts
 * @returns {Header}
 */
function headerOf({ meta, syntax, elements }) {
  if (!elements.get('PixelData')) {
    const kind = elements.text('SOPClassUID') || meta.text('MediaStorageSOPClassUID')
    throw new Unusable(`a DICOM file with no picture in it (${kind ? oneLine(nameOf(kind)) : 'of no known kind'})`)
  }
  const missing = NEEDED.filter((name) => {
    const element = elements.get(name)
    return !element || (!element.value.length && element.vr !== 'CS')
  })
  if (missing.length) throw new Unusable(`a DICOM file without ${missing.join(', ')}`)
  const [rows, columns, samples] = [numberOf('Rows'), numberOf('Columns'), numberOf('SamplesPerPixel')]
  const [allocated, stored] = [numberOf('BitsAllocated'), numberOf('BitsStored')]
  if (![1, 3].includes(samples) || ![1, 8, 16, 32].includes(allocated)) {
    throw new Error(`${samples} samples of ${allocated} bits to a pixel`)
  }
  const signed = numberOf('PixelRepresentation') === 1
  elements.signed = signed
  const frames = elements.get('NumberOfFrames')?.value.length ? numberOf('NumberOfFrames') || 1 : 1
  const photometric = (elements.text('PhotometricInterpretation') ?? '').toUpperCase()
  return {
    elements,
    syntax,
    little: elements.syntax.little,
    rows,
    columns,
    samples,
    photometric,
    allocated,
    stored,
    signed,
    frames,
  }

  /** @param {import('./tags.js').Name} name */
  function numberOf(name) {
    const numbers = elements.numbers(name)
    if (numbers.length !== 1 || numbers[0] === null) throw new Error(`${numbers.length} values of ${name}`)
    if (!Number.isInteger(numbers[0])) throw new Error(`${numbers[0]} as ${name}`)
    return numbers[0]
  }
}

/**
 * Three channels as grey: the brightness of what is shown, which is not stretched.
 * @param {import('./frames.js').Frame} frame
 * @param {Header} header
 */
function greyOfColours({ values, colours, planes }, header) {
  const stored = storedValues(values, header)
  const count = header.rows * header.columns
  const grey = new Uint8Array(count)
  const [step, plane] = planes ? [1, count] : [3, 1]
  const factor = 255 / (2 ** header.stored - 1)
  if (colours.startsWith('YBR_FULL')) {
    // As numpy computes it: in 32 bits.
    const narrow = Math.fround(factor)
    for (let i = 0; i < count; i++) grey[i] = clipped(Math.fround(Math.fround(stored[step * i]) * narrow))
  } else if (colours === 'RGB') {
    for (let i = 0; i < count; i++) {
      const [red, green, blue] = [stored[step * i], stored[step * i + plane], stored[step * i + 2 * plane]]
      grey[i] = clipped((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) * factor)
    }
  } else {
    throw new Error(`its colours are ${colours}`)
  }
  return grey
}

/** @param {number} level */
function clipped(level) {
  return rounded(Math.min(Math.max(level, 0), 255))
}
