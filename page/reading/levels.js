// Stored values to grey levels: modality, VOI, then MONOCHROME1; padding is black (DICOM PS3.3, C.7.6.3, C.11).

import { viewOf } from './bytes.js'
import { counted, namingPart } from './limits.js'
import { greyOf, inWords, rounded } from './numbers.js'

/** @typedef {import('./dicom.js').Header} Header */
/** @typedef {import('./elements.js').DataSet} DataSet */
/** @typedef {import('./tags.js').Name} Name */

const LUMA = [0.299, 0.587, 0.114] // of red, green and blue: ITU-R BT.601
const COLOURS = /** @type {const} */ (['Red', 'Green', 'Blue'])

/**
 * @param {Float64Array} levels distinct stored values, ascending
 * @param {Header} header
 * @returns {Uint8Array} of the same length
 */
export function greyOfLevels(levels, header) {
  const padding = namingPart('pixel padding', () => paddingOf(levels, header))
  const shares = sharesOf(rescaled(levels, header), padding, header)
  const inverted = header.photometric === 'MONOCHROME1' // low values are meant to be shown bright
  return Uint8Array.from(shares, (share, i) => {
    if (padding[i]) return 0
    return inverted ? 255 - greyOf(share) : greyOf(share)
  })
}

/**
 * Which stored values fill what is no film, 1 for each; none where all would (PS3.3, C.7.5.1.1.2).
 * @param {Float64Array} levels
 * @param {Header} header
 */
function paddingOf(levels, { elements, stored, signed }) {
  const none = new Uint8Array(levels.length)
  const ends = []
  for (const name of /** @type {Name[]} */ (['PixelPaddingValue', 'PixelPaddingRangeLimit'])) {
    for (const value of elements.numbers(name).slice(0, 1)) {
      let end = Math.trunc(value ?? Number.NaN)
      if (stored <= 16) end &= 0xffff // US and SS are confused, in both directions
      if (signed && stored <= 16) end -= end >= 2 ** 15 ? 2 ** 16 : end >= 2 ** (stored - 1) ? 2 ** stored : 0
      ends.push(end)
    }
  }
  if (!elements.numbers('PixelPaddingValue').length) return none
  const [low, high] = [Math.min(...ends), Math.max(...ends)]
  const padding = Uint8Array.from(levels, (level) => (level >= low && level <= high ? 1 : 0))
  return padding.includes(0) ? padding : none
}

/**
 * Stored values through the modality LUT, or slope and intercept (PS3.3, C.11.1).
 * @param {Float64Array} levels
 * @param {Header} header
 * @returns {Float64Array}
 */
function rescaled(levels, header) {
  const looked = namingPart('modality LUT', () => {
    const item = itemWithLut(header.elements, 'ModalityLUTSequence')
    return item && lookedUp(levels, item.numbers('LUTDescriptor'), dataOf(item, 'LUTData'), header).entries
  })
  if (looked) return looked
  return namingPart('rescale', () => {
    const [slope, intercept] = [numberOf(header, 'RescaleSlope'), numberOf(header, 'RescaleIntercept')]
    if (slope === 0 || !Number.isFinite(slope ?? 1) || !Number.isFinite(intercept ?? 0)) {
      throw new Error(`slope ${asPython(slope)}, intercept ${asPython(intercept)}`)
    }
    const values = levels.map((level) => level * (slope ?? 1) + (intercept ?? 0))
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    if (largest > 1e100) throw new Error(`values up to ${inWords(largest, 3)}`)
    return values
  })
}

/**
 * Shares of full brightness: by the first VOI LUT, else the first window, else of all that is no padding. They may lie
 * beyond 0 and 1 (PS3.3, C.11.2).
 * @param {Float64Array} values
 * @param {Uint8Array} padding
 * @param {Header} header
 * @returns {Float64Array}
 */
function sharesOf(values, padding, header) {
  const looked = namingPart('VOI LUT', () => {
    const item = itemWithLut(header.elements, 'VOILUTSequence')
    if (!item) return null
    const { entries, bits } = lookedUp(values, item.numbers('LUTDescriptor'), dataOf(item, 'LUTData'), header)
    return entries.map((entry) => entry / (2 ** bits - 1))
  })
  if (looked) return looked
  const windowed = namingPart('window', () => {
    const [centre, width] = [numberOf(header, 'WindowCenter'), numberOf(header, 'WindowWidth')]
    if (centre === null || width === null) return null
    const name = (header.elements.text('VOILUTFunction') || 'LINEAR').toUpperCase()
    return values.map(windowOf(centre, width, name))
  })
  if (windowed) return windowed
  const shown = values.filter((_, i) => !padding[i])
  const low = shown.reduce((least, value) => Math.min(least, value), Infinity)
  const high = shown.reduce((most, value) => Math.max(most, value), -Infinity)
  const span = Math.max(high - low, 1e-9)
  return values.map((value) => (value - low) / span)
}

/**
 * What a window does to a value (PS3.3, C.11.2.1.2 and C.11.2.1.3).
 * @param {number} centre
 * @param {number} width
 * @param {string} name of the function
 * @returns {(value: number) => number}
 */
function windowOf(centre, width, name) {
  const impossible = !Number.isFinite(centre) || !Number.isFinite(width) || width <= 0
  if (impossible || (name === 'LINEAR' && width < 1)) {
    throw new Error(`centre ${inWords(centre)}, width ${inWords(width)}`)
  }
  if (name === 'LINEAR' && width === 1) return (value) => (value > centre - 0.5 ? 1 : 0)
  if (name === 'LINEAR') return (value) => (value - (centre - 0.5)) / (width - 1) + 0.5
  if (name === 'LINEAR_EXACT') return (value) => (value - centre) / width + 0.5
  if (name === 'SIGMOID') return (value) => 1 / (1 + Math.exp((-4 * (value - centre)) / width))
  throw new Error(`its function is ${name}`)
}

/**
 * Stored values as the brightness of their colours (PS3.3, C.7.6.3.1.5).
 * @param {Float64Array} levels
 * @param {Header} header
 */
export function greyOfPalette(levels, header) {
  const grey = new Float64Array(levels.length)
  namingPart('palette', () => {
    for (const [i, colour] of COLOURS.entries()) {
      const data = dataOf(header.elements, `${colour}PaletteColorLookupTableData`)
      if (!data?.length) throw new Error('it is missing, or in segments')
      const descriptor = header.elements.numbers(`${colour}PaletteColorLookupTableDescriptor`)
      const { entries, bits } = lookedUp(levels, descriptor, data, header)
      const weight = LUMA[i] * (255 / (2 ** bits - 1))
      for (let k = 0; k < grey.length; k++) grey[k] += weight * entries[k]
    }
  })
  return Uint8Array.from(grey, (level) => rounded(Math.min(Math.max(level, 0), 255)))
}

/**
 * The first item of a sequence that has anything of a lookup table.
 * @param {DataSet} elements
 * @param {Name} name
 */
function itemWithLut(elements, name) {
  return elements.items(name).find((item) => item.numbers('LUTDescriptor').length || dataOf(item, 'LUTData')?.length)
}

/**
 * @param {DataSet} elements
 * @param {Name} name
 */
function dataOf(elements, name) {
  return elements.get(name)?.value
}

/**
 * Values through a lookup table, and how many bits its entries have (PS3.3, C.11.1.1 and C.7.6.3.1.5).
 * @param {Float64Array} values
 * @param {(number | null)[]} descriptor number of entries (0 is 65,536), the value of the first one, bits
 * @param {Uint8Array | undefined} data
 * @param {Header} header
 * @returns {{entries: Float64Array, bits: number}}
 */
function lookedUp(values, descriptor, data, header) {
  if (!data?.length) throw new Error('it has no data')
  if (descriptor.length !== 3) throw new Error(`${descriptor.length} of 3 values in its descriptor`)
  const [length, start, width] = descriptor.map((number) => number ?? 0)
  const [count, bits] = [length & 0xffff || 65536, width & 0xffff]
  if (bits !== 8 && !(bits >= 10 && bits <= 16)) throw new Error(`entries of ${bits} bits`)
  let first = start
  if (first > 32767 && values.some((value) => value < 0)) first -= 65536 // a negative value without its sign
  const table = tableOf(data, count, bits, header.little)
  const last = first + count - 1
  const entries = values.map((value) => table[Math.min(Math.max(rounded(value), first), last) - first])
  return { entries, bits }
}

/**
 * The entries of a lookup table.
 * @param {Uint8Array} data
 * @param {number} count
 * @param {number} bits of an entry
 * @param {boolean} little
 * @returns {ArrayLike<number>}
 */
function tableOf(data, count, bits, little) {
  const used = data.subarray(0, 2 * count)
  const padded = new Uint8Array(used.length + (used.length % 2))
  padded.set(used)
  const view = viewOf(padded)
  let table = Array.from({ length: padded.length / 2 }, (_, i) => view.getUint16(2 * i, little))
  // Two entries of 8 bits to a word, the first one in its lower half.
  if (bits === 8 && table.length < count) table = table.flatMap((word) => [word & 255, word >> 8])
  if (table.length < count) throw new Error(`${counted(table.length)} of ${counted(count)} entries`)
  table = table.slice(0, count)
  // Or one in the upper half of each word.
  return bits === 8 && table.some((entry) => entry > 255) ? table.map((entry) => entry >> 8) : table
}

/**
 * The first number of an element, null where it is missing or empty.
 * @param {Header} header
 * @param {Name} name
 */
function numberOf({ elements }, name) {
  return elements.numbers(name)[0] ?? null
}

/**
 * A number as Python prints it.
 * @param {number | null} value
 */
function asPython(value) {
  if (value === null) return 'None'
  return Number.isInteger(value) ? value.toFixed(1) : inWords(value, 17)
}
