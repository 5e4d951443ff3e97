// Numbers and texts as Python writes them, so that the page's CSV is that of predict.py.

/**
 * The shortest text that Python's float() reads as this number.
 * @param {number} value
 */
export function numberText(value) {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0'
  const [digits, power] = value.toExponential().split('e')
  const exponent = Number(power)
  if (exponent < -4 || exponent >= 16) {
    return `${digits}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`
  }
  const plain =
    exponent < 0 ? value.toFixed(Math.max(0, digits.replace(/\D/g, '').length - 1) - exponent) : String(value)
  return plain.includes('.') ? plain : `${plain}.0`
}

/**
 * The number with the fewest digits that is this float32.
 * @param {number} value a float32
 */
export function shortest(value) {
  if (!Number.isFinite(value) || value === 0) return value
  const places = Number(value.toExponential().split('e')[1])
  for (let digits = 1; ; digits++) {
    const after = digits - 1 - places // the point
    const short = Number(after >= 0 && after <= 90 ? fixed(value, after) : value.toPrecision(digits))
    if (Math.fround(short) === value) return short
  }
}

/**
 * So many digits after the point; of two that are equally near the even one, as Python does it.
 * @param {number} value
 * @param {number} digits
 */
export function fixed(value, digits) {
  const text = value.toFixed(digits)
  const exact = Math.abs(value) < 1e15 ? value.toFixed(100) : text
  const cut = exact.slice(0, exact.length - 100 + digits - (digits ? 0 : 1))
  const tie = /^\.?50*$/.test(exact.slice(cut.length))
  return tie && Number(text.slice(-1)) % 2 ? cut : text
}

/**
 * Six digits at most, without zeros at the end: Python's format "g", of numbers that need no exponent.
 * @param {number} value
 */
export function general(value) {
  return String(Number(value.toPrecision(6)))
}

/**
 * Three digits of three with commas between.
 * @param {number} value
 */
export function grouped(value) {
  return value.toLocaleString('en-US')
}

/**
 * "1 film", "2 films".
 * @param {number} count
 * @param {string} thing
 */
export function numbered(count, thing) {
  return `${grouped(count)} ${thing}${count === 1 ? '' : 's'}`
}

/**
 * The text on one line: what no screen shows is escaped, as Python's unicode_escape does it.
 * @param {string} text
 */
export function printable(text) {
  const names = new Map([
    ['\n', '\\n'],
    ['\r', '\\r'],
    ['\t', '\\t'],
  ])
  return text.replace(/[\p{C}\p{Z}]/gu, (character) => {
    if (character === ' ') return character
    const code = /** @type {number} */ (character.codePointAt(0))
    const hex = (/** @type {number} */ width) => code.toString(16).padStart(width, '0')
    return names.get(character) ?? (code < 256 ? `\\x${hex(2)}` : code < 65536 ? `\\u${hex(4)}` : `\\U${hex(8)}`)
  })
}

/**
 * JSON of Python's, which has NaN and Infinity too: these are null here.
 * @param {string} text
 */
export function parsed(text) {
  try {
    return JSON.parse(text)
  } catch {
    return JSON.parse(text.replace(/(?<=[:[,]\s*)-?(?:NaN|Infinity)(?=\s*[,}\]])/g, 'null'))
  }
}

/**
 * What an error says, on one line.
 * @param {unknown} error
 */
export function firstLine(error) {
  const said = error instanceof Error ? error.message || error.name : String(error)
  return printable(said.trim().split('\n')[0] || 'Error')
}

/**
 * The nearest whole number; of two the even one, as Python's round.
 * @param {number} value
 */
export function evenly(value) {
  const down = Math.floor(value)
  if (value - down !== 0.5) return Math.round(value)
  return down % 2 ? down + 1 : down
}
