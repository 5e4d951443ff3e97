// In the browser: drop a film, see the answer, nothing leaves the machine.

import { fetched, introduce, offerExamples } from './about.js'
import { csvOf, rowOf, summaryOf } from './answers.js'
import { offerComputing, wasmPool } from './computing.js'
import { redraw, showAnswer, showCaption, showHeat, showPicture, visit } from './detail.js'
import { made, the } from './dom.js'
import { chosenFilms, droppedFilms } from './files.js'
import { addRow, markRow, returnTo, showRow, showThumbnail } from './list.js'
import { firstLine, fixed, grouped, numbered } from './numbers.js'
import { Pool } from './pool.js'
import { offerPoints } from './settings.js'

/** @typedef {import('./types.d.ts').Film} Film */
/** @typedef {import('./types.d.ts').Model} Model */
/** @typedef {import('./types.d.ts').Site} Site */

/** @type {Site} */
let site
/** @type {Pool} */
let pool
/** @type {Model} */
let model
let threshold = 0
/** @type {Set<Film>} */
const films = new Set()
/** @type {Film | null} */
let chosen = null
let taking = Promise.resolve() // one drop after the other
let bigs = Promise.resolve() // big films one after the other: several would not fit into memory
let removed = 0 // how often all films were: what is still being taken in then goes too
let reading = 0 // films that wait for their answers
let started = 0 // when the first of them came
let done = 0 // how many had their answers since
let rate = 0 // films a second
/** @type {Map<Film, import('./drawing.js').Picture | undefined>} */
const fresh = new Map() // films with answers that the table does not show yet, and their thumbnails
let shown = 0 // when it was last shown
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer

async function start() {
  the('starting').hidden = true
  document.ondragover = document.ondrop = (event) => event.preventDefault() // else the browser would show the film
  try {
    site = await (await fetched('site.json')).json()
    pool = wasmPool(setup(), site.graph.bytes)
    say(`The network is being opened (${(site.graph.bytes / 1e6).toFixed(1)} MB).`)
    model = await pool.open()
  } catch (error) {
    say('')
    the('trouble').textContent = `error: ${firstLine(error)}`
    the('trouble').hidden = false
    return
  }
  say('')
  threshold = model.threshold
  introduce(model, site)
  offerPoints(model, (next) => {
    threshold = next
    for (const film of films) if (film.read) showRow(film, rowFor(film), model)
    if (chosen) showAnswer(rowFor(chosen), model)
    if (!reading) tell()
  })
  offerExamples(site, take)
  listen()
  the('drop').hidden = the('about').hidden = false
  await offerComputing(setup(), pool, (next) => {
    pool = next
  })
}

function setup() {
  const { file, sha256, on_cpu: onCpu } = site.graph
  return { graph: file, sha256, onCpu }
}

function listen() {
  for (const [button, id] of [
    ['choose', 'files'],
    ['choose-folder', 'folder'],
  ]) {
    const input = /** @type {HTMLInputElement} */ (the(id))
    the(button).onclick = () => input.click()
    input.onchange = () => {
      const passedOver = new Map()
      take(chosenFilms(/** @type {FileList} */ (input.files), passedOver), passedOver)
      input.value = '' // the same film may be chosen again
    }
  }
  const over = (/** @type {boolean} */ so) => document.body.classList.toggle('over', so)
  document.ondragover = (event) => {
    event.preventDefault()
    over(true)
  }
  document.ondragleave = (event) => over(event.relatedTarget !== null)
  document.ondrop = (event) => {
    event.preventDefault()
    over(false)
    const passedOver = new Map()
    if (event.dataTransfer) take(droppedFilms(event.dataTransfer, passedOver), passedOver)
  }
  the('strength').oninput = redraw
  the('explain').onclick = explain
  the('back').onclick = () => chosen && returnTo(chosen)
  the('csv').onclick = save
  the('clear').onclick = clear
}

/**
 * Takes films in, after those of an earlier drop.
 * @param {() => AsyncGenerator<import('./files.js').Source>} sources
 * @param {Map<string, number>} [passedOver]
 */
function take(sources, passedOver = new Map()) {
  const before = removed
  taking = taking.then(async () => {
    try {
      for await (const source of sources()) {
        if (removed !== before) return
        add(source)
      }
    } catch (error) {
      the('trouble').textContent = `error: ${firstLine(error)}`
      the('trouble').hidden = false
    }
    const others = [...passedOver].map(([kind, count]) => `${grouped(count)} ${kind}`).join(', ')
    the('passed').textContent = others && `passed over in folders: ${others}`
  })
}

/** @param {import('./files.js').Source} source */
async function add(source) {
  /** @type {Film} */
  const film = { ...source, read: null }
  films.add(film)
  if (!reading) [started, done] = [performance.now(), 0]
  reading += 1
  the('results').hidden = false
  document.body.classList.add('busy', 'some')
  document.body.classList.remove('rests')
  addRow(film, choose)
  soon()
  const read = await answerOf(film)
  if (!films.has(film)) return // they were all removed
  const { thumbnail, ...known } = read
  film.read = known
  fresh.set(film, thumbnail)
  reading -= 1
  done += 1
  rate = (1000 * done) / (performance.now() - started)
  if (!chosen) choose(film)
  soon()
}

/** Shows what has come, four times a second at most: each time the whole table is laid out, and read aloud. */
function soon() {
  if (timer) return
  timer = setTimeout(
    () => {
      timer = undefined
      shown = performance.now()
      for (const [film, thumbnail] of fresh) {
        showRow(film, rowFor(film), model)
        if (thumbnail) showThumbnail(film, thumbnail)
        if (film === chosen) showAnswer(rowFor(film), model)
      }
      fresh.clear()
      tell()
    },
    Math.max(0, shown + 250 - performance.now()),
  )
}

/** @param {Film} film */
async function answerOf({ file, name }) {
  try {
    const read = await pool.ask('answer', { file, name, alone: false })
    if (!read.big) return read
    const own = bigs.then(() => alone({ file, name }))
    bigs = own.catch(() => {})
    return await own
  } catch (error) {
    return { file: name, error: firstLine(error) }
  }
}

/**
 * A worker of its own for a big film, which gives the memory back.
 * @param {{file: File, name: string}} source
 */
async function alone(source) {
  const own = new Pool({ ...setup(), provider: 'wasm' }, 1)
  try {
    await own.open()
    return await own.ask('answer', { ...source, alone: true })
  } finally {
    own.stop()
  }
}

/** @param {Film} film */
function rowFor(film) {
  return rowOf(film.read ?? { file: film.name }, model, threshold)
}

/**
 * @param {Film} film
 * @param {boolean} [opened] by hand, and not walked over; not known where nobody chose it
 */
async function choose(film, opened) {
  const other = film !== chosen
  chosen = film
  the('detail').hidden = false
  markRow(film)
  if (other) showAnswer(rowFor(film), model)
  if (opened !== undefined) visit(opened)
  if (!other) return
  showPicture(null)
  showCaption(model, 'none')
  if (film.read?.error && !film.read.width) return
  const picture = await pool.ask('show', { file: film.file, name: film.name }, { first: true }).catch(() => null)
  if (film !== chosen || !picture) return // its row says what is wrong
  showPicture(picture)
  if (picture.map) showHeat(picture.map, model.fit)
  showCaption(model, picture.map ? 'done' : 'can')
}

/** Lays a heat map over the film, of a graph that makes none by itself. */
async function explain() {
  const film = chosen
  if (!film) return
  const passes = /** @type {HTMLProgressElement} */ (the('passes'))
  passes.value = 0
  showCaption(model, 'works')
  const progress = (/** @type {number} */ share) => {
    if (film === chosen) passes.value = share
  }
  try {
    const map = await pool.ask('occlude', { file: film.file, name: film.name }, { first: true, progress })
    if (film !== chosen) return
    showHeat(map, 'stretch')
    showCaption(model, 'done')
  } catch (error) {
    if (film === chosen) showCaption(model, 'can')
    say(`error: ${film.name}: ${firstLine(error)}`)
  }
}

/** How far it is, and at the end what was found. */
function tell() {
  const progress = /** @type {HTMLProgressElement} */ (the('progress'))
  progress.hidden = !reading
  progress.max = films.size
  progress.value = films.size - reading
  document.body.classList.toggle('busy', reading > 0)
  document.body.classList.toggle('rests', !reading)
  if (reading) return say(`${grouped(films.size - reading)} of ${numbered(films.size, 'film')} read`)
  say(films.size ? `${summaryOf([...films].map(rowFor), model)}; ${fixed(rate, 1)} films/s` : '')
}

/** @param {string} text */
function say(text) {
  the('status').textContent = text
}

function save() {
  const rows = [...films].filter((film) => film.read).map(rowFor)
  const address = URL.createObjectURL(new Blob([csvOf(rows)], { type: 'text/csv' }))
  made('a', { href: address, download: 'films.csv' }).click()
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}

function clear() {
  const only = /** @type {HTMLInputElement} */ (the('only'))
  only.checked = false
  removed += 1
  pool.forget()
  films.clear()
  reading = 0
  chosen = null
  the('rows').replaceChildren()
  the('results').hidden = the('detail').hidden = true
  the('passed').textContent = ''
  document.body.classList.remove('some')
  fresh.clear()
  tell()
  the('choose').focus()
}

start()
