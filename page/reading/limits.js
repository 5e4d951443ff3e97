// What a file from elsewhere may hold, and how what is wrong with one is said: the limits and words of predict.py.

export const MAX_BYTES = 500_000_000 // of one file, also where it is deflated
const MAX_PIXELS = 80_000_000 // the largest film in the data has 6.4 million; above this it is a mistake or an attack
const MAX_SIDE = 10_000

/** One line about a part of a file that has been named already. */
export class Unusable extends Error {}

/**
 * Refuses a size before anything of that size is allocated.
 * @param {number} width in pixels
 * @param {number} height in pixels
 */
export function checkSize(width, height) {
  const size = `${counted(width)} x ${counted(height)} pixels`
  if (width * height > MAX_PIXELS) throw new Error(`${size} is more than the limit of ${counted(MAX_PIXELS)}`)
  if (Math.max(width, height) > MAX_SIDE) {
    throw new Error(`${size} is more than the limit of ${counted(MAX_SIDE)} to a side`)
  }
  if (width <= 0 || height <= 0) throw new Error('it has no pixels')
}

/**
 * 1234567 as "1,234,567".
 * @param {number} count
 */
export function counted(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',')
}

/**
 * A text, or what an error says, on one line that can be shown.
 * @param {unknown} said
 */
export function oneLine(said) {
  const text = String(said instanceof Error ? said.message : said).replace(/[^\p{L}\p{M}\p{N}\p{P}\p{S}]+/gu, ' ')
  return text.trim().slice(0, 300) || (said instanceof Error ? said.name : 'nothing')
}

/**
 * What goes wrong with a part of a DICOM file becomes one line that names the part.
 * @template T
 * @param {string} part
 * @param {() => T} work
 * @returns {T}
 */
export function namingPart(part, work) {
  try {
    return work()
  } catch (error) {
    throw named(part, error)
  }
}

/**
 * The error that names a part of a DICOM file; one that has named a part of this part stays as it is.
 * @param {string} part
 * @param {unknown} error
 */
export function named(part, error) {
  return error instanceof Unusable
    ? error
    : new Unusable(`a DICOM file whose ${part} cannot be used (${oneLine(error)})`)
}
