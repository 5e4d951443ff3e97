// The table of films: a row for each, which a click, Enter or the arrow keys choose.

import { noteOf } from './answers.js'
import { made, the } from './dom.js'
import { draw, mixed } from './drawing.js'
import { fixed } from './numbers.js'

/** @typedef {import('./app.js').Film} Film */

/** @type {WeakMap<Film, HTMLTableRowElement>} */
const rows = new WeakMap()

/**
 * Adds a row that waits for its answer.
 * @param {Film} film
 * @param {(film: Film, opened: boolean) => void} choose whether it was opened, and not walked over by the arrow keys
 */
export function addRow(film, choose) {
  const name = made('button', { type: 'button', title: film.name }, [film.name])
  const row = made('tr', { className: 'waits' }, [
    made('td', {}, [made('canvas')]),
    made('td', {}, [name]),
    made('td', { className: 'number' }),
    made('td'),
    made('td', {}, ['waits']),
  ])
  row.onclick = (event) => choose(film, event.isTrusted)
  row.onkeydown = (event) => {
    const way = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key]
    if (!way) return
    let next = /** @type {any} */ (row)[way]
    while (next && !next.offsetParent) next = next[way] // those that are hidden are passed over
    if (!next) return
    event.preventDefault()
    const button = /** @type {HTMLElement} */ (next.querySelector('button'))
    button.focus()
    button.click()
  }
  rows.set(film, row)
  the('rows').append(row)
}

/**
 * Shows what is known of a film by now.
 * @param {Film} film
 * @param {import('./answers.js').Row} row
 * @param {import('./model.js').Model} model
 */
export function showRow(film, row, model) {
  const line = rows.get(film)
  if (!line) return
  const [, , probability, decision, note] = line.children
  line.className = row.error ? 'failed' : row.refer ? 'referred' : ''
  probability.textContent = row.probability === null ? '' : fixed(row.probability, 4)
  decision.textContent = row.decision ?? ''
  note.textContent = row.error ? `error: ${row.error}` : noteOf(row, model) || (row.warning ?? '')
}

/**
 * @param {Film} film
 * @param {import('./drawing.js').Picture} picture
 */
export function showThumbnail(film, { grey, height, width }) {
  const canvas = rows.get(film)?.querySelector('canvas')
  if (canvas) draw(canvas, mixed(grey, null, 1, 0), height, width)
}

/**
 * Marks the row of the film that is shown.
 * @param {Film} film
 */
export function markRow(film) {
  for (const row of the('rows').querySelectorAll('[aria-current]')) row.removeAttribute('aria-current')
  rows.get(film)?.setAttribute('aria-current', 'true')
}

/**
 * Leads back to the row of a film.
 * @param {Film} film
 */
export function returnTo(film) {
  const row = rows.get(film)
  row?.scrollIntoView({ block: 'center' })
  row?.querySelector('button')?.focus({ preventScroll: true })
}
