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
            ['PPV', share(found.ppv)],
            ['NPV', share(found.npv)],
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

/** @param {number[]} found as it is, and at worst */
function share([value, worst]) {
  if (Number.isNaN(value)) return 'undefined'
  return `${fixed(value, 3)}${Number.isNaN(worst) ? '' : `, at worst ${fixed(worst, 3)}`}`
}
