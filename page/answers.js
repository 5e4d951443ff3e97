// What a graph says of a film, as a row: word for word what predict.py makes of it.

import { fixed, grouped, numbered, numberText, printable, shortest } from './numbers.js'

/** @typedef {import('./types.d.ts').Found} Found */
/** @typedef {import('./types.d.ts').Model} Model */
/** @typedef {import('./types.d.ts').Read} Read */
/** @typedef {import('./types.d.ts').Row} Row */

const COLUMNS = /** @type {(keyof Row)[]} */ (
  'file probability decision threshold refer flags possible unfamiliar width height warning error heatmap model'.split(
    ' ',
  )
)
export const COLOURED = 15 // mean saturation, 0 to 255, above which it is a photograph
// What spreadsheets take for the beginning of a formula (OWASP, CSV Injection), with the apostrophes that defuse it.
const FORMULA = /^'*[=+\-@\t\r\n＝＋－＠]/
const GUESSES = ['negative', 'turned', 'upside down', 'mirrored'] // flags that could be wrong; others are measured
const LEFT = ['neither', 'NORMAL', 'PNEUMONIA', 'both'] // of the classes, by `possible`

/**
 * The row of a film: no answer that does not follow from the graph's other outputs.
 * @param {Read} read
 * @param {Model} model
 * @param {number} threshold
 * @returns {Row}
 */
export function rowOf(read, model, threshold) {
  const { found } = read
  /** @type {Row} */
  const row = {
    file: printable(read.file),
    probability: null,
    decision: null,
    threshold,
    refer: null,
    flags: null,
    possible: null,
    unfamiliar: null,
    width: read.width ?? null,
    height: read.height ?? null,
    warning: read.warning || null,
    error: read.error ? printable(read.error) : null,
    heatmap: null,
    model: model.label,
  }
  if (!found || row.error) return row
  if (!follows(found, model)) {
    const said = Object.entries(found).map(([name, value]) => `${name} is ${shown(value)}`)
    return { ...row, error: `the graph's ${said.join(', its ')}` }
  }
  row.probability = shortest(found.probability)
  row.decision = model.classes[found.probability >= Math.fround(threshold) ? 1 : 0]
  if (model.later) {
    let flags = Number(found.flags) // of grey levels, which is all that a graph sees
    flags |= (read.saturation ?? 0) > COLOURED ? (model.flags.coloured ?? 0) : 0
    flags |= read.guessed ? (model.flags['guessed levels'] ?? 0) : 0
    row.flags = Object.keys(model.flags)
      .filter((name) => flags & model.flags[name])
      .join('; ')
    row.possible = LEFT[Number(found.possible?.[0]) + 2 * Number(found.possible?.[1])]
    row.unfamiliar = shortest(Number(found.unfamiliar))
    if (read.guessed) row.warning = null
  }
  row.refer = reasons(row, model).length > 0
  return row
}

/**
 * Whether a graph's outputs for a film are what it says of itself.
 * @param {Found} found
 * @param {Model} model
 */
function follows(found, model) {
  const { probability, decision, unfamiliar, flags, possible, refer } = found
  const decided = probability >= Math.fround(model.threshold) ? 1n : 0n
  const right = probability >= 0 && probability <= 1 && decision === decided
  if (!model.later) return right
  const one = Number(possible?.[0]) + Number(possible?.[1]) === 1
  const clear = one && possible?.[Number(decision)]
  const referred = !clear || (Number(flags) & model.forbidding) !== 0
  return right && refer === (referred ? 1n : 0n) && Number.isFinite(unfamiliar)
}

/**
 * A value as numpy shows it.
 * @param {number | bigint | boolean[]} value
 */
function shown(value) {
  if (Array.isArray(value)) return `[${value.map((so) => (so ? ' True' : 'False')).join(' ')}]`
  return typeof value === 'bigint' ? String(value) : numberText(value)
}

/**
 * The flags of a row that forbid an answer.
 * @param {Row} row
 * @param {Model} model
 */
export function forbidden(row, model) {
  return flagsOf(row).filter((name) => (model.flags[name] ?? 0) & model.forbidding)
}

/** @param {Row} row */
export function flagsOf(row) {
  return row.flags ? row.flags.split('; ') : []
}

/**
 * Why a person should read a film, the weightiest first; also where the decision is not what is left possible.
 * @param {Row} row
 * @param {Model} model
 */
export function reasons(row, model) {
  const unclear = row.possible && row.possible !== row.decision ? [`${row.possible} possible`] : []
  return [...forbidden(row, model), ...unclear]
}

/**
 * The first reason to refer, or else the first flag, and how many more there are; "?" where it could be wrong.
 * @param {Row} row
 * @param {Model} model
 */
export function noteOf(row, model) {
  const why = row.refer ? reasons(row, model) : []
  const words = [...new Set([...why, ...flagsOf(row)])]
  if (!words.length) return ''
  const first = words[0] + (GUESSES.includes(words[0]) ? '?' : '')
  return `${why.length ? 'refer: ' : ''}${first}${words.length > 1 ? ` +${words.length - 1}` : ''}`
}

/**
 * What is unlike a frontal chest film, for graphs of earlier versions, which say nothing of it themselves.
 *
 * Films are bright in the middle and dark at the sides; `contrast` is in standard deviations.
 * @param {Uint8Array} grey row by row
 * @param {number} height
 * @param {number} width
 * @param {number} saturation
 * @param {number} size pixels of the square that the network sees
 * @returns {string[]}
 */
export function examined(grey, height, width, saturation, size) {
  const [down, across] = [Math.max(1, Math.floor(height / 32)), Math.max(1, Math.floor(width / 32))]
  const [rows, columns] = [Math.ceil(height / down), Math.ceil(width / across)]
  const sums = new Float64Array(columns)
  let [total, squares] = [0, 0]
  for (let y = 0; y < height; y += down) {
    for (let x = 0; x < width; x += across) {
      const level = grey[y * width + x]
      sums[x / across] += level / rows
      total += level
      squares += level * level
    }
  }
  const count = rows * columns
  const spread = Math.sqrt(Math.max(0, squares / count - (total / count) ** 2))
  const [edge, start] = [Math.max(1, Math.floor(columns / 16)), Math.floor((columns * 3) / 8)]
  const sides = (mean(sums.subarray(0, edge)) + mean(sums.subarray(columns - edge))) / 2
  const contrast = (mean(sums.subarray(start, columns - start)) - sides) / Math.max(spread, 1e-9)
  const shape = width / height
  /** @type {[string, boolean][]} */
  const tests = [
    ['coloured: a photograph?', saturation > COLOURED],
    [`only ${width} x ${height} pixels, where the network sees ${fixed(size, 0)}`, Math.min(height, width) < size / 2],
    [`width / height is ${fixed(shape, 2)}: part of a film?`, !(shape >= 0.5 && shape <= 3.5)],
    ['nearly constant: no picture?', spread < 8],
    ['bright sides and dark middle: inverted?', spread >= 8 && contrast < -1.3],
    [
      'no bright middle between dark sides: turned, or no chest film?',
      spread >= 8 && contrast >= -1.3 && contrast < 0.3,
    ],
  ]
  return tests.filter(([, so]) => so).map(([text]) => text)
}

/** @param {Float64Array} values */
function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/**
 * A value in the CSV; an apostrophe in front of a text keeps spreadsheets from running it.
 * @param {Row[keyof Row]} value
 * @param {keyof Row} column
 */
export function cell(value, column) {
  if (value === null) return ''
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'number') return column === 'width' || column === 'height' ? String(value) : numberText(value)
  const text = printable(value)
  return FORMULA.test(text) ? `'${text}` : text
}

/**
 * All rows as predict.py --csv writes them.
 * @param {Row[]} rows
 */
export function csvOf(rows) {
  const quoted = (/** @type {string} */ text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
  const lines = rows.map((row) => COLUMNS.map((column) => quoted(cell(row[column], column))).join(','))
  return [COLUMNS.join(','), ...lines, ''].join('\n')
}

/**
 * The last line of predict.py: how many films of each class, which of them a person should read and why, and errors.
 * @param {Row[]} rows
 * @param {Model} model
 */
export function summaryOf(rows, model) {
  const count = (/** @type {(row: Row) => unknown} */ so) => rows.filter(so).length
  let text = model.classes.map((name) => `${grouped(count((row) => row.decision === name))} ${name}`).join(', ')
  if (model.later && rows.some((row) => row.decision)) {
    const why = new Map()
    for (const row of rows.filter((row) => row.refer)) {
      const first = reasons(row, model)[0]
      why.set(first, (why.get(first) ?? 0) + 1)
    }
    const most = [...why].sort((a, b) => b[1] - a[1])
    const others = most.slice(5).reduce((sum, [, times]) => sum + times, 0)
    const texts = most.slice(0, 5).map(([reason, times]) => `${grouped(times)} ${reason}`)
    const told = [...texts, ...(others ? [numbered(others, 'other')] : [])].join(', ')
    text += `, ${grouped(count((row) => row.refer))} of them to be read by a person${told ? `: ${told}` : ''}`
  }
  const failed = [
    numbered(
      count((row) => row.error),
      'error',
    ),
    numbered(
      count((row) => row.warning),
      'warning',
    ),
  ]
  return `${text}${model.later ? ';' : ','} ${failed.join(', ')}`
}
