// Numbers as Python reads, rounds and writes them: where predict.py and this page must not differ by one grey level.

/**
 * To the nearest whole number, and to the even one of two that are as near: numpy's round and rint.
 * @param {number} value
 */
export function rounded(value) {
  const below = Math.floor(value)
  const rest = value - below
  if (rest === 0.5) return below % 2 === 0 ? below : below + 1
  return rest < 0.5 ? below : below + 1
}

/**
 * A share of full brightness as a grey level.
 * @param {number} share 0 is black and 1 is white; what lies beyond is clipped
 */
export function greyOf(share) {
  return rounded(Math.min(Math.max(share, 0), 1) * 255)
}

/**
 * The number that a text holds, as Python's float() reads it.
 * @param {string} text
 * @throws {Error} where it holds none
 */
export function floatOf(text) {
  const trimmed = text.trim()
  if (/^[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)(e[+-]?\d+(_\d+)*)?$/i.test(trimmed)) {
    return Number(trimmed.replaceAll('_', ''))
  }
  const word = /^([+-]?)(inf|infinity|nan)$/i.exec(trimmed)
  if (!word) throw new Error(`could not convert string to float: '${trimmed}'`)
  return word[2][0].toLowerCase() === 'n' ? Number.NaN : word[1] === '-' ? -Infinity : Infinity
}

/**
 * A number in words, as Python's f"{value:g}" writes it: six digits at most.
 * @param {number} value
 * @param {number} [digits]
 */
export function inWords(value, digits = 6) {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf'
  const [mantissa, exponent] = value.toExponential(digits - 1).split('e')
  const power = Number(exponent)
  if (power >= -4 && power < digits) return String(Number(value.toPrecision(digits)))
  const sign = power < 0 ? '-' : '+'
  return `${Number(mantissa)}e${sign}${String(Math.abs(power)).padStart(2, '0')}`
}
