// The operating point, what it promises, and what it means where pneumonia is rarer or commoner.

import { made, showFacts, the } from './dom.js'
import { fixed } from './numbers.js'
import { pointsOf, predictive } from './points.js'

/** @typedef {import('./points.js').Point} Point */

/**
 * Fills in the operating points of a graph; `changed` is called with the threshold that was chosen.
 * @param {import('./model.js').Model} model
 * @param {(threshold: number) => void} changed
 */
export function offerPoints(model, changed) {
  const points = pointsOf(model)
  const select = /** @type {HTMLSelectElement} */ (the('point'))
  const prevalence = /** @type {HTMLInputElement} */ (the('prevalence'))
  const options = [...points].map(([value, point]) =>
    made('option', { value }, [`${value}: ${fixed(point.threshold, 4)}`]),
  )
  select.replaceChildren(...options)
  const show = () => {
    const point = /** @type {Point} */ (points.get(select.value))
    the('said').textContent = point.said
    the('promise').textContent = model.promise
    const wrong = !prevalence.validity.valid
    const typed = prevalence.value !== '' && !wrong
    const found = typed ? predictive(point, Number(prevalence.value) / 100) : null
    the('typed').textContent = wrong
      ? 'A number from 0 to 100, please.'
      : typed && !found
        ? 'Validation says nothing of this threshold.'
        : ''
    showFacts(
      the('predictive'),
      found
        ? [
            [`PPV ${fixed(found.ppv[0], 3)}`, inWords(model.classes[1], found.ppv)],
            [`NPV ${fixed(found.npv[0], 3)}`, inWords(model.classes[0], found.npv)],
          ]
        : [],
    )
    the('rates').hidden = !found
  }
  select.onchange = () => {
    show()
    changed(/** @type {Point} */ (points.get(select.value)).threshold)
  }
  prevalence.oninput = show
  show()
}

/**
 * @param {string} called the decision
 * @param {number[]} shares that are right, as it is and at worst
 */
function inWords(called, [share, worst]) {
  if (Number.isNaN(share)) return `no film is called ${called}`
  const atWorst = Number.isNaN(worst) ? '' : `; at worst ${outOf100(worst)}`
  return `of 100 films called ${called}, ${outOf100(share)} are${atWorst}`
}

/** @param {number} share that is not called all or none unless it is */
function outOf100(share) {
  const count = fixed(100 * share, 0)
  if (count === '100' && share < 1) return 'more than 99'
  return count === '0' && share > 0 ? 'less than 1' : count
}
