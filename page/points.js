// Operating points: thresholds that validation chose, and what they mean where pneumonia is rarer or commoner.

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./model.js').Point} Point */

export const OWN = "the graph's own" // a threshold that is no operating point: it was set by hand
/**
 * Operating points by name, the one that the graph decides by first.
 * @param {Model} model
 * @returns {Map<string, Point>}
 */
export function pointsOf(model) {
  const points = Object.entries(model.points)
  const own = points.find(([, point]) => point.threshold === model.threshold)
  const first = own ?? [OWN, { threshold: model.threshold, said: 'set by hand: validation says nothing of it' }]
  return new Map([/** @type {[string, Point]} */ (first), ...points.filter((entry) => entry !== own)])
}

/**
 * What sensitivity and specificity mean where a share `prevalence` of the films shows pneumonia (Bayes; Altman and
 * Bland 1994, BMJ). All in [0, 1]; NaN where 0 / 0.
 * @param {number} sensitivity
 * @param {number} specificity
 * @param {number} prevalence
 */
export function atPrevalence(sensitivity, specificity, prevalence) {
  const [tp, fn] = [prevalence * sensitivity, prevalence * (1 - sensitivity)]
  const [tn, fp] = [(1 - prevalence) * specificity, (1 - prevalence) * (1 - specificity)]
  return { ppv: tp / (tp + fp), npv: tn / (tn + fn) }
}

/**
 * PPV and NPV of an operating point, each as it is by the rates that validation found and by the worse ends of their
 * intervals; null where validation says nothing.
 * @param {Point} point
 * @param {number} prevalence
 */
export function predictive(point, prevalence) {
  const [found, spared] = [point.sensitivity, point.specificity]
  if (typeof found?.value !== 'number' || typeof spared?.value !== 'number') return null
  const middle = atPrevalence(found.value, spared.value, prevalence)
  const worst = atPrevalence(found.low ?? NaN, spared.low ?? NaN, prevalence)
  return { ppv: [middle.ppv, worst.ppv], npv: [middle.npv, worst.npv] }
}
