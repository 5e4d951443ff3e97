// One film: its picture with the heat map over it, and what the network says of it, in words.

import { flagsOf, forbidden, reasons } from './answers.js'
import { made, showFacts, the } from './dom.js'
import { draw, drawScale, mixed, overFilm, topOf } from './drawing.js'
import { fixed, general } from './numbers.js'

/** @typedef {import('./app.js').Film} Film */
/** @typedef {import('./answers.js').Row} Row */
/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./drawing.js').Picture} Picture */

/** @type {Record<string, string>} */
const FLAGS = {
  'nearly constant': 'it is nearly of one grey',
  negative: 'bright and dark seem to be exchanged',
  turned: 'it seems to lie on its side',
  'upside down': 'it seems to stand on its head',
  mirrored: 'the heart seems to be on the other side',
  'no bright middle': 'between dark sides it has no bright middle, as a chest has',
  tiny: 'it has less than half as many pixels as the network sees',
  'odd shape': 'it is much wider or much higher than a film',
  'half black': 'one half is much darker than the other',
  unfamiliar: 'it is unlike the films that the network has learned from',
  coloured: 'it has colours: a photograph?',
  'guessed levels': 'the file does not say how many bits its grey levels have',
}
/** @type {Record<string, string>} */
const POSSIBLE = {
  both: 'it could be either: both classes are possible',
  neither: 'it is like neither class',
  NORMAL: 'by what validation promises, only NORMAL is possible',
  PNEUMONIA: 'by what validation promises, only PNEUMONIA is possible',
}

/** @type {Picture | null} */
let picture = null
/** @type {Float32Array | null} */
let heat = null
let top = 1

/**
 * What the network says of a film.
 * @param {Row} row
 * @param {Model} model
 */
export function showAnswer(row, model) {
  the('film-name').textContent = row.file
  the('verdict').replaceChildren(...verdict(row, model))
  the('scale').hidden = row.probability === null
  the('mark').style.left = `${100 * (row.probability ?? 0)}%`
  the('limit').style.left = `${100 * row.threshold}%`
  the('why').replaceChildren(...why(row, model))
  showFacts(the('facts'), [
    ['size', row.width ? `${row.width} x ${row.height} pixels` : ''],
    ['unfamiliar', row.unfamiliar === null ? '' : `${fixed(row.unfamiliar, 2)} (above 1: unlike the films it knows)`],
    ['left possible', row.possible ?? ''],
    ['warning', row.warning ?? ''],
    ['graph', row.model],
  ])
}

/**
 * Brings the film into sight.
 * @param {boolean} opened then the focus goes there too, where it stands above the table and not beside it
 */
export function visit(opened) {
  const above = the('back').offsetParent !== null
  the('detail').scrollIntoView({ block: above ? 'start' : 'nearest' })
  if (above && opened) the('detail').focus({ preventScroll: true })
}

/**
 * @param {Row} row
 * @param {Model} model
 */
function verdict(row, model) {
  if (row.error) return [made('strong', { className: 'error' }, ['error']), ` ${row.error}`]
  if (row.probability === null) return ['Waits for its turn.']
  return [
    made('strong', { className: row.decision === model.classes[1] ? 'positive' : 'negative' }, [row.decision ?? '']),
    ` probability of ${model.classes[1].toLowerCase()} `,
    made('b', {}, [fixed(row.probability, 4)]),
    `, threshold ${fixed(row.threshold, 4)}`,
  ]
}

/**
 * Why a person should read it, and its other flags.
 * @param {Row} row
 * @param {Model} model
 */
function why(row, model) {
  const [grave, flags] = [forbidden(row, model), flagsOf(row)]
  const said = (/** @type {string} */ name) =>
    made('li', {}, [made('b', {}, [name]), ` (${FLAGS[name] ?? 'a flag of the graph'})`])
  const parts = []
  if (row.refer) {
    const unclear = reasons(row, model)
      .slice(grave.length)
      .map((name) => {
        const words = POSSIBLE[row.possible ?? ''] ?? ''
        return made('li', {}, [made('b', {}, [name]), words && ` (${words})`])
      })
    parts.push(made('p', { className: 'refer' }, ['refer: a person should read this film']))
    parts.push(made('ul', {}, [...grave.map(said), ...unclear]))
  }
  const others = flags.filter((name) => !grave.includes(name))
  if (others.length) parts.push(made('p', {}, ['flags that forbid no answer']), made('ul', {}, others.map(said)))
  return parts
}

/**
 * Takes another film, or none, to be drawn.
 * @param {Picture | null} next
 */
export function showPicture(next) {
  picture = next
  heat = null
  the('film').hidden = !next
  showHeat(null, '')
}

/**
 * Lays a heat map over the film that is shown.
 * @param {import('./drawing.js').Heat | null} map
 * @param {string} fit how a film became the square that it covers
 */
export function showHeat(map, fit) {
  heat = map && picture && overFilm(map, picture.height, picture.width, fit)
  top = map ? topOf(map) : 1
  the('colours').hidden = the('strength').hidden = the('strength-label').hidden = !heat
  the('most').textContent = general(Number(top.toPrecision(3)))
  if (heat) drawScale(the('bar'))
  redraw()
}

/** Draws film and heat map as strong as the slider says. */
export function redraw() {
  if (!picture) return
  const strength = Number(/** @type {HTMLInputElement} */ (the('strength')).value) / 100
  const canvas = /** @type {HTMLCanvasElement} */ (the('film'))
  draw(canvas, mixed(picture.grey, heat, top, strength), picture.height, picture.width)
  const colours = heat ? ', with a heat map over it' : ''
  canvas.setAttribute('aria-label', `The film ${the('film-name').textContent}${colours}`)
}

/**
 * What the colours are, and the button that asks for them.
 * @param {Model} model
 * @param {'none' | 'can' | 'works' | 'done'} state
 */
export function showCaption(model, state) {
  const kind = model.heatmap
    ? "Colours: each place's share in the log-odds of pneumonia (class activation map)."
    : 'Colours: by how much the log-odds of pneumonia fall where a grey patch covers the place.'
  the('caption').textContent = state === 'done' ? `${kind} It is no map of the illness.` : ''
  the('explain').hidden = state !== 'can'
  the('passes').hidden = state !== 'works'
}
