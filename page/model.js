// A graph of export.py: what it says of itself, read and checked as predict.py does it.

import { metadataOf } from './metadata.js'
import { fixed, general, parsed, printable } from './numbers.js'

/** @typedef {import('./types.d.ts').Model} Model */
/** @typedef {import('./types.d.ts').Point} Point */
/** @typedef {Record<string, {data: ArrayLike<any>, dims: readonly number[]}>} Outputs */

export const LATER = ['unfamiliar', 'flags', 'possible', 'refer'] // outputs that graphs of earlier versions lack
const OUTPUTS = ['decision', 'logits', 'probability']
const FACTS = ['classes', 'data', 'name', 'size', 'temperature', 'threshold'] // of the metadata
/** @type {Record<string, string>} */
const POINTS = { validation: 'misses and false alarms weigh alike', 0.5: 'what is more probable' }

/**
 * What a graph says of itself.
 * @param {Uint8Array} content
 * @param {string} hash its SHA-256
 * @param {readonly string[]} outputs its names of them
 * @returns {Model}
 */
export function modelOf(content, hash, outputs) {
  const facts = metadataOf(content)
  const missing = [...OUTPUTS.filter((name) => !outputs.includes(name)), ...FACTS.filter((name) => !facts.has(name))]
  if (missing.length) throw new Error(`not a graph that export.py made: it has no ${missing.join(', no ')}`)
  const json = (/** @type {string} */ name, missing = '{}') => parsed(facts.get(name) ?? missing)
  const [data, flags, promise] = [json('data'), json('flags'), json('promise')]
  const later = LATER.every((name) => outputs.includes(name))
  const drawn = data.synthetic ? 'SYNTHETIC ' : ''
  const quick = json('quick', 'false') === true
  const bits = Object.entries(later ? flags.bits : {}).map(([name, bit]) => [printable(name), Number(bit)])
  const kept = later ? `${general(100 * (1 - promise.alpha))} of 100` : ''
  const points = Object.entries(json('operating_points')).map(([name, point]) => [
    name,
    { ...point, threshold: Number(point.threshold), said: promised(name, point) },
  ])
  return {
    name: printable(/** @type {string} */ (facts.get('name'))),
    label: printable(`${facts.get('name')} ${drawn}${hash.slice(0, 16)}`),
    classes: json('classes'),
    threshold: Number(json('threshold')),
    rule: facts.get('threshold_rule') ?? '',
    temperature: Number(json('temperature')),
    size: Number(json('size')),
    heatmap: outputs.includes('heatmap'),
    fit: facts.get('fit') ?? 'stretch',
    use:
      (quick ? 'a smoke run: its answers mean nothing; ' : '') +
      (drawn && `${drawn}training data; `) +
      (facts.get('intended_use') ?? 'not for clinical use'),
    synthetic: Boolean(data.synthetic),
    quick,
    trained: printable(String(data.name ?? 'films of which it says nothing')),
    licence: printable(data.licence?.licence ? `${data.licence.licence}: ${data.licence.cite ?? ''}` : ''),
    later,
    flags: Object.fromEntries(bits),
    forbidding: later ? Number(flags.forbidding) : 0,
    promise: later
      ? `promise for films like validation's: the true class is left possible in ${kept} normal ones and ${kept} ` +
        'pneumonias; both or neither: refer'
      : '',
    points: Object.fromEntries(points),
  }
}

/**
 * An operating point in words: the rates that validation found, and their intervals rounded outwards; or "".
 * @param {string} name
 * @param {Point} point
 */
function promised(name, { sensitivity, specificity }) {
  const found = [sensitivity?.value, sensitivity?.low, sensitivity?.high].map((rate) => 100 * (rate ?? NaN))
  const alarms = [specificity?.value, specificity?.high, specificity?.low].map((rate) => 100 - 100 * (rate ?? NaN))
  if ([...found, ...alarms].some(Number.isNaN)) return ''
  return (
    `${POINTS[name] ?? name}: found ${fixed(found[0], 0)} of 100 pneumonias (95 % interval ${Math.floor(found[1])} to ` +
    `${Math.ceil(found[2])}), called ${fixed(alarms[0], 0)} of 100 normal films ill (${Math.floor(alarms[1])} to ` +
    `${Math.ceil(alarms[2])}), in validation`
  )
}

/**
 * Raises an error when a graph's answers for two films are not what it says of itself.
 * @param {Model} model
 * @param {Outputs} found
 */
export function checkAnswers(model, found) {
  if (String(model.classes) !== 'NORMAL,PNEUMONIA') {
    throw new Error('its classes are not NORMAL and PNEUMONIA, in this order')
  }
  const { threshold, temperature, size } = model
  if (!(threshold >= 0 && threshold <= 1 && temperature > 0 && temperature < 1e6 && size >= 1 && size <= 1e4)) {
    throw new Error('its threshold, temperature or size is impossible')
  }
  const shape = (/** @type {string} */ name) => String(found[name].dims)
  const logits = Array.from(found.logits.data)
  if (
    shape('probability') !== '2' ||
    shape('decision') !== '2' ||
    shape('logits') !== '2,2' ||
    !logits.every(Number.isFinite)
  ) {
    throw new Error('it does not give finite answers, one for each film')
  }
  for (const i of [0, 1]) {
    const odds = Math.min(500, Math.max(-500, (logits[2 * i + 1] - logits[2 * i]) / temperature))
    const probability = found.probability.data[i]
    if (!(Math.abs(probability - 1 / (1 + Math.exp(-odds))) <= 1e-5)) {
      throw new Error('its probability does not follow from its logits and its temperature')
    }
    if (Number(found.decision.data[i]) !== (probability >= Math.fround(threshold) ? 1 : 0)) {
      throw new Error('it does not decide by its threshold')
    }
  }
  const odd = LATER.find((name) => model.later && shape(name) !== (name === 'possible' ? '2,2' : '2'))
  if (odd) throw new Error(`its ${odd} is not one for each film`)
}
