// The elements of a DICOM data set, as pydicom reads them: explicit and implicit VR, both byte orders (DICOM PS3.5, 7).
// dicom-parser, the usual library, takes OV, SV and UV for short ones, and reads every sequence at once: it refuses
// films that pydicom reads, for what no film needs.

import { textOf, viewOf } from './bytes.js'
import { floatOf } from './numbers.js'
import { KNOWN, LONG, TAGS, TEXTS, VALUES } from './tags.js'

/** @typedef {import('./tags.js').Name} Name */

/**
 * @typedef {object} Element
 * @property {string} vr value representation; "XS" is US or SS, "" one that is not known
 * @property {Uint8Array} value its bytes; of encapsulated pixels, their items
 * @property {boolean} encapsulated whether its length was undefined, as that of compressed pixels is
 * @property {DataSet[]} [items] of a sequence of undefined length; others are read when they are asked for
 */
/**
 * @typedef {object} Syntax how numbers and elements are written
 * @property {boolean} little whether the least significant byte comes first
 * @property {boolean} implicit whether elements do not say their value representation
 */

const UNDEFINED = 0xffffffff
const [ITEM, ITEM_END, SEQUENCE_END] = [0xfffee000, 0xfffee00d, 0xfffee0dd]
const MAX_LEVELS = 50 // of sequences in sequences; a film has two or three
const MAX_ITEMS = 100_000 // of one sequence
/** @type {Record<string, [number, 'Uint16' | 'Int16' | 'Uint32' | 'Int32' | 'Float32' | 'Float64']>} */
const NUMBERS = {
  US: [2, 'Uint16'],
  SS: [2, 'Int16'],
  UL: [4, 'Uint32'],
  SL: [4, 'Int32'],
  FL: [4, 'Float32'],
  FD: [8, 'Float64'],
}

/** What ends a file before its time. */
class EndOfFile extends Error {}

/** The elements of a data set or of an item, by tag. */
export class DataSet {
  /**
   * @param {Syntax} syntax
   * @param {boolean} signed whether "US or SS" is SS, as the pixels of the film are
   */
  constructor(syntax, signed = false) {
    this.syntax = syntax
    this.signed = signed
    /** @type {Map<number, Element>} */
    this.elements = new Map()
  }

  /**
   * The element, where it is there.
   * @param {Name} name
   * @throws {Error} where it says a value representation that does not exist
   */
  get(name) {
    const element = this.elements.get(TAGS[name][0])
    if (element && !VALUES.has(element.vr)) throw new Error(`Unknown Value Representation of ${name}`)
    return element
  }

  /**
   * The numbers of an element; none where it is missing or empty.
   * @param {Name} name
   * @returns {(number | null)[]} null for one of several that is empty
   * @throws {Error} where they are none
   */
  numbers(name) {
    const element = this.get(name)
    if (!element?.value.length) return []
    const vr = element.vr === 'XS' ? (this.signed ? 'SS' : 'US') : element.vr
    if (vr === 'DS' || vr === 'IS') {
      const texts = textOf(element.value)
        .replace(/[ \0]+$/, '')
        .split('\\')
      return texts.length === 1 && !texts[0].trim() ? [] : texts.map((text) => (text.trim() ? floatOf(text) : null))
    }
    if (TEXTS.has(vr)) throw new Error(`${vr}, which is a text, where numbers are due`)
    // As pydicom leaves what it does not know to be numbers: words, the lower byte first.
    const [size, kind] = NUMBERS[vr] ?? [2, 'Uint16']
    if (element.value.length % size) throw new Error(`${element.value.length} bytes for numbers of ${size}`)
    const view = viewOf(element.value)
    const little = vr in NUMBERS ? this.syntax.little : true
    return Array.from({ length: element.value.length / size }, (_, i) => view[`get${kind}`](i * size, little))
  }

  /**
   * The text of an element, without the blanks around it; null where it is missing.
   * @param {Name} name
   */
  text(name) {
    const element = this.get(name)
    return element ? textOf(element.value.subarray(0, 1000)).replace(/\0+$/, '').trim() : null
  }

  /**
   * The items of a sequence; none where it is missing.
   * @param {Name} name
   * @returns {DataSet[]}
   */
  items(name) {
    const element = this.get(name)
    if (!element) return []
    const items = element.items ?? readSequence(element.value, 0, element.value.length, this.syntax, 1).items
    for (const item of items) item.signed = this.signed
    return items
  }
}

/**
 * Reads a data set; one that is cut off ends at its last whole element.
 * @param {Uint8Array} bytes
 * @param {number} start
 * @param {Syntax} syntax as the file says; what is found in its first element counts
 * @param {(tag: number) => boolean} [until] is not read any more
 * @returns {{found: DataSet, end: number}}
 */
export function readDataSet(bytes, start, syntax, until = () => false) {
  const view = viewOf(bytes)

  const implicit = start + 6 <= bytes.length ? !isExplicit(bytes, start) : syntax.implicit
  const found = new DataSet({ ...syntax, implicit })
  return { found, end: readElements(view, bytes, start, bytes.length, found, 0, until) }
}

/**
 * @param {DataView} view
 * @param {Uint8Array} bytes that `view` shows
 * @param {number} start
 * @param {number} limit
 * @param {DataSet} found gets them
 * @param {number} level of sequences around
 * @param {(tag: number) => boolean} until
 * @returns {number} where reading ended
 */
function readElements(view, bytes, start, limit, found, level, until) {
  const { little } = found.syntax
  let at = start
  try {
    while (at < limit && at + 8 <= bytes.length) {
      const head = headOf(view, at, found.syntax)
      if (head.tag === ITEM_END) return head.start
      if (until(head.tag)) return at
      const { element, end } = elementOf(view, bytes, head, { ...found.syntax, little }, level)
      found.elements.set(head.tag, element)
      at = end
    }
  } catch (error) {
    if (!(error instanceof EndOfFile)) throw error
  }
  return at
}

/**
 * @typedef {object} Head of an element
 * @property {number} tag
 * @property {string} vr
 * @property {number} length
 * @property {number} start of its value
 */

/**
 * @param {DataView} view
 * @param {number} at
 * @param {Syntax} syntax
 * @returns {Head}
 */
function headOf(view, at, { little, implicit }) {
  const tag = view.getUint16(at, little) * 65536 + view.getUint16(at + 2, little)
  const known = KNOWN.get(tag) ?? ''
  const written = String.fromCharCode(view.getUint8(at + 4), view.getUint8(at + 5))
  // Some writers go over to implicit VR within an explicit file; delimiters never have one.
  if (implicit || written < 'AA' || written > 'ZZ') {
    return { tag, vr: known, length: view.getUint32(at + 4, little), start: at + 8 }
  }
  const vr = written === 'UN' && known ? known : written
  if (!LONG.has(written)) return { tag, vr, length: view.getUint16(at + 6, little), start: at + 8 }
  if (at + 12 > view.byteLength) throw new EndOfFile()
  return { tag, vr, length: view.getUint32(at + 8, little), start: at + 12 }
}

/**
 * @param {DataView} view
 * @param {Uint8Array} bytes
 * @param {Head} head
 * @param {Syntax} syntax
 * @param {number} level
 * @returns {{element: Element, end: number}}
 */
function elementOf(view, bytes, { vr, length, start }, syntax, level) {
  if (length !== UNDEFINED) {
    const end = Math.min(start + length, bytes.length)
    return { element: { vr, value: bytes.subarray(start, end), encapsulated: false }, end }
  }
  const first = start + 4 <= bytes.length ? tagAt(view, start, syntax.little) : 0
  if (vr === 'SQ' || vr === 'UN' || (vr === '' && first === ITEM)) {
    const { items, end } = readSequence(bytes, start, null, syntax, level + 1)
    return { element: { vr: 'SQ', value: new Uint8Array(), encapsulated: false, items }, end }
  }
  for (let at = start; at + 8 <= bytes.length; ) {
    const [tag, size] = [tagAt(view, at, syntax.little), view.getUint32(at + 4, syntax.little)]
    if (tag === SEQUENCE_END)
      return { element: { vr, value: bytes.subarray(start, at), encapsulated: true }, end: at + 8 }
    if (tag !== ITEM) throw new EndOfFile()
    at += 8 + size
  }
  throw new EndOfFile()
}

/**
 * @param {Uint8Array} bytes
 * @param {number} start
 * @param {number | null} limit where a sequence of defined length ends
 * @param {Syntax} syntax
 * @param {number} level
 * @returns {{items: DataSet[], end: number}}
 */
function readSequence(bytes, start, limit, syntax, level) {
  if (level > MAX_LEVELS) throw new Error(`more than ${MAX_LEVELS} levels of sequences`)
  const view = viewOf(bytes)
  const items = []
  let at = start
  while (limit === null || at < limit) {
    if (at + 8 > bytes.length) throw new Error('a sequence is cut off')
    const [tag, length] = [tagAt(view, at, syntax.little), view.getUint32(at + 4, syntax.little)]
    at += 8
    if (tag === SEQUENCE_END) break
    const end = length === UNDEFINED ? bytes.length : Math.min(at + length, bytes.length)
    const item = new DataSet({ ...syntax, implicit: syntax.implicit || !isExplicit(bytes, at) })
    at = readElements(view, bytes, at, end, item, level, () => false)
    items.push(item)
    if (items.length > MAX_ITEMS) throw new Error(`a sequence of more than ${MAX_ITEMS} items`)
  }
  return { items, end: at }
}

/**
 * Whether an element that starts here says its value representation.
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function isExplicit(bytes, at) {
  return [4, 5].every((i) => at + i >= bytes.length || (bytes[at + i] >= 0x41 && bytes[at + i] <= 0x5a))
}

/**
 * @param {DataView} view
 * @param {number} at
 * @param {boolean} little
 */
function tagAt(view, at, little) {
  return view.getUint16(at, little) * 65536 + view.getUint16(at + 2, little)
}
