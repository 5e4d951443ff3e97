// What the network is, whose films it has learned from, and films to try.

import { made, showFacts, the } from './dom.js'

/** @typedef {import('./app.js').Site} Site */

/** @param {string} file */
export async function fetched(file) {
  const response = await fetch(file)
  if (!response.ok) throw new Error(`${file} is missing (${response.status}): copy the whole folder again`)
  return response
}

/**
 * Says whose films the network has learned from, in the bar that stays in sight, and below.
 * @param {import('./model.js').Model} model
 * @param {Site} site
 */
export function introduce(model, site) {
  const whose = /^(Kermany|PneumoniaMNIST)/.test(model.trained) ? 'children aged 1 to 5, one hospital' : ''
  const films = whose ? 'from films of children aged 1 to 5, of one hospital' : `from films: ${model.trained}`
  const whom = model.synthetic ? 'SYNTHETIC: from drawings, not from films' : films
  const quick = model.quick ? ' A smoke run: its answers mean nothing.' : ''
  the('whom').textContent = `${model.name} has learned ${whom}.${quick}`
  const { certificate } = site.graph
  showFacts(the('model'), [
    ['name', model.label],
    ['learned from', [model.trained, whose].filter(Boolean).join(': ')],
    ['licence of these', model.licence],
    ['use', model.use],
    ['threshold', `${model.threshold} (${model.rule})`],
    ['certificate', certificate ? made('a', { href: certificate }, [certificate]) : 'none lay beside the graph'],
    ['runtime', site.runtime],
  ])
  the('footer').textContent = site.credit
}

/**
 * Films to try, for those who have none at hand.
 * @param {Site} site
 * @param {(sources: () => AsyncGenerator<import('./files.js').Source>) => void} take
 */
export function offerExamples(site, take) {
  const buttons = site.examples.map(({ file, thumbnail, about }) => {
    const image = made('img', { src: thumbnail, alt: '', width: 72, height: 72 })
    const button = made('button', { type: 'button', title: file, ariaLabel: about }, [image, made('span', {}, [about])])
    button.onclick = () => take(() => example(file))
    return made('li', {}, [button])
  })
  the('examples')
    .querySelector('ul')
    ?.replaceChildren(...buttons)
}

/**
 * @param {string} address
 * @returns {AsyncGenerator<import('./files.js').Source>}
 */
async function* example(address) {
  const name = address.slice(address.lastIndexOf('/') + 1)
  yield { name, file: new File([await (await fetched(address)).blob()], name) }
}
