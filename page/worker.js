// Reads films and asks the graph, beside the page, which stays awake: some films at a time, several workers at once.

import { examined } from './answers.js'
import { preview } from './drawing.js'
import { checkAnswers, LATER, modelOf } from './model.js'
import { firstLine, grouped } from './numbers.js'
import { codec } from './reading/browser.js'
import { joined } from './reading/bytes.js'
import { readFilm } from './reading/film.js'
import { MAX_BYTES } from './reading/limits.js'
import { sha256 } from './sha256.js'

/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./answers.js').Read} Read */
/** @typedef {typeof import('onnxruntime-common')} Runtime */
/** @typedef {{file: Blob, name: string}} Source */
/** @typedef {Read & {thumbnail?: import('./drawing.js').Picture, big?: boolean}} Answer */

const BIG = 16 << 20 // pixels: the graph's resizing takes some 12 bytes for each
const SMALL = 1 << 20 // pixels of a film that waits for others of its size: asked together, they are answered faster
const SHOWN = 1000 // pixels of the longer side of a film that is shown
const THUMBNAIL = 96

/** @type {Runtime} */
let runtime
/** @type {import('onnxruntime-common').InferenceSession} */
let session
/** @type {Model} */
let model
let broken = false // after a failure, such as full memory, what is left of the runtime is not to be trusted

/**
 * Opens the graph and tries it on two black films.
 * @param {import('./pool.js').Setup} given
 * @returns {Promise<Model>}
 */
async function open({ graph, sha256: expected, provider, onCpu }) {
  // Paths are made here: nothing bundles this file.
  const part = (/** @type {string} */ file) => new URL(`./vendor/onnxruntime-web/${file}`, import.meta.url).href
  const [module, response] = await Promise.all([
    import(part(`ort.${provider}.min.js`)),
    fetch(new URL(graph, import.meta.url)),
  ])
  runtime = module
  const { env } = runtime
  env.logLevel = 'fatal' // what goes wrong is thrown
  env.wasm.numThreads = 1 // there are several workers instead: threads need headers that few hosts send
  const core = `ort-wasm-simd-threaded${provider === 'webgpu' ? '.asyncify' : ''}`
  env.wasm.wasmPaths = { mjs: part(`${core}.js`), wasm: part(`${core}.wasm`) }
  if (!response.ok) throw new Error(`${graph} is missing (${response.status}): copy the whole folder again`)
  const content = new Uint8Array(await response.arrayBuffer())
  const hash = sha256(content)
  if (hash !== expected) {
    throw new Error(
      `${graph} is not the file that was put here: it is damaged or was changed. Copy the whole folder again`,
    )
  }
  try {
    session = await runtime.InferenceSession.create(content, {
      executionProviders: [provider === 'webgpu' ? { name: provider, forceCpuNodeNames: onCpu } : provider],
      enableMemPattern: false, // a pattern is kept for every size of film
      // Whole numbers of 8 bits are computed as float32: the same numbers, and here in two thirds of the time.
      extra: { session: { disable_quant_qdq: '1' } },
      logSeverityLevel: 4,
    })
    model = modelOf(content, hash, session.outputNames)
    const { outputNames } = session
    checkAnswers(model, await run(new Uint8Array(2 * 8 * 8), 2, 8, 8, outputNames))
    return model
  } catch (error) {
    throw new Error(`${graph} cannot be used: ${firstLine(error)}`)
  }
}

/**
 * The named outputs of (count, height, width) grey levels.
 * @param {Uint8Array} pixels
 * @param {number} count
 * @param {number} height
 * @param {number} width
 * @param {readonly string[]} names
 * @returns {Promise<import('./model.js').Outputs>}
 */
async function run(pixels, count, height, width, names) {
  const image = new runtime.Tensor('uint8', pixels, [count, height, width])
  const found = await session.run({ image }, [...names]).catch((error) => {
    broken = true
    throw error
  })
  return Object.fromEntries(
    Object.entries(found).map(([name, { data, dims }]) => [name, { data: /** @type {any} */ (data), dims }]),
  )
}

/**
 * @param {Source} source
 * @returns {Promise<Uint8Array>}
 */
async function contentOf({ file, name }) {
  if (file.size > MAX_BYTES) throw new Error(`a file of more than ${grouped(MAX_BYTES)} bytes`)
  try {
    return new Uint8Array(await file.arrayBuffer())
  } catch (error) {
    if (error instanceof DOMException && error.name === 'NotReadableError') {
      throw new Error(`${name} cannot be read any more: it was moved, changed or is not yours to read`)
    }
    throw error
  }
}

/** @param {Source} source */
async function read(source) {
  return readFilm(await contentOf(source), codec)
}

/**
 * What is known of each film; what goes wrong becomes its `error`. A big film is only read where `alone` says that no
 * other one is in memory.
 * @param {(Source & {alone: boolean})[]} sources
 * @returns {Promise<Answer[]>}
 */
async function answer(sources) {
  /** @type {Answer[]} */
  const answers = []
  /** @type {Map<string, {at: number, film: import('./reading/film.js').Film}[]>} */
  const waiting = new Map() // by their sizes
  let next = contentOf(sources[0])
  for (const [at, source] of sources.entries()) {
    const file = source.name
    const content = next
    if (sources[at + 1]) next = contentOf(sources[at + 1]) // the disk's turn, while this one is decoded
    next.catch(() => {}) // said when it is its turn
    try {
      const film = await readFilm(await content, codec)
      const { grey, height, width, saturation, guessed } = film
      if (height * width > BIG && !source.alone) {
        answers[at] = { file, big: true }
        continue
      }
      const said = model.later ? [] : examined(grey, height, width, saturation, model.size)
      const warning = [film.warning, ...said].filter(Boolean).join('; ')
      answers[at] = { file, height, width, saturation, guessed, warning, thumbnail: thumbnailOf(film) }
      const size = height * width > SMALL ? String(at) : `${height} x ${width}`
      waiting.set(size, [...(waiting.get(size) ?? []), { at, film }])
      if (height * width > SMALL) await ask(size)
    } catch (error) {
      answers[at] = { file, error: firstLine(error) }
    }
  }
  for (const size of waiting.keys()) await ask(size)
  return answers

  /** @param {string} size */
  async function ask(size) {
    const some = waiting.get(size) ?? []
    waiting.delete(size)
    const { height, width } = some[0].film
    const found = await foundIn(joined(some.map(({ film }) => film.grey)), some.length, height, width)
    for (const [i, { at }] of some.entries()) Object.assign(answers[at], found[i])
  }
}

/**
 * What the graph says of each of (count, height, width) grey levels.
 * @param {Uint8Array} pixels
 * @param {number} count
 * @param {number} height
 * @param {number} width
 * @returns {Promise<Pick<Answer, 'found' | 'error'>[]>}
 */
async function foundIn(pixels, count, height, width) {
  const films = Array.from({ length: count }, (_, i) => i)
  try {
    const found = await run(pixels, count, height, width, ['probability', 'decision', ...(model.later ? LATER : [])])
    return films.map((i) => {
      const one = (/** @type {string} */ name) => found[name].data[i]
      const later = model.later && {
        unfamiliar: one('unfamiliar'),
        flags: one('flags'),
        possible: [0, 1].map((k) => Boolean(found.possible.data[2 * i + k])),
        refer: one('refer'),
      }
      return { found: { probability: one('probability'), decision: one('decision'), ...later } }
    })
  } catch (error) {
    return films.map(() => ({ error: `the graph failed: ${firstLine(error)}` }))
  }
}

/**
 * A small picture of every pixel that lies on a grid: of a large film, resizing takes longer than reading.
 * @param {{grey: Uint8Array, height: number, width: number}} film
 */
function thumbnailOf({ grey, height, width }) {
  const step = Math.max(1, Math.floor(Math.max(height, width) / (2 * THUMBNAIL)))
  const [rows, columns] = [Math.ceil(height / step), Math.ceil(width / step)]
  const some = new Uint8Array(rows * columns)
  for (let y = 0, at = 0; y < height; y += step) for (let x = 0; x < width; x += step) some[at++] = grey[y * width + x]
  return preview(some, rows, columns, THUMBNAIL)
}

/**
 * A film to be shown, and the graph's heat map of it where it makes one.
 * @param {Source} source
 */
async function show(source) {
  const { grey, height, width } = await read(source)
  const shown = preview(grey, height, width, SHOWN)
  if (!model.heatmap) return { ...shown, map: null }
  const { heatmap } = await run(grey, 1, height, width, ['heatmap'])
  const [, rows, columns] = heatmap.dims
  return { ...shown, map: { heat: Float32Array.from(heatmap.data), rows, columns } }
}

/**
 * The heat map of a film by occlusion.
 * @param {Source} source
 * @param {(share: number) => void} progress
 */
async function occlude(source, progress) {
  const { grey, height, width } = await read(source)
  const logitsOf = async (/** @type {[Uint8Array, number, number, number]} */ ...given) =>
    (await run(...given, ['logits'])).logits.data
  const { occlusion } = await import('./occlusion.js') // few ask for it
  return occlusion(grey, height, width, model, logitsOf, progress)
}

/**
 * Answers to drawn patterns, and how many of them a second: to compare two ways of computing.
 * @param {{count: number}} given
 */
async function trial({ count }) {
  const side = Math.round(model.size)
  const names = ['probability', 'logits', ...(model.later ? ['unfamiliar', 'flags'] : [])]
  /** @type {number[]} */
  const answers = []
  let started = 0
  for (let k = 0; k <= count; k++) {
    if (k === 1) started = performance.now() // the first one compiles
    const pixels = new Uint8Array(side * side)
    for (let i = 0; i < pixels.length; i++) {
      const [x, y] = [(i % side) / side, Math.floor(i / side) / side]
      pixels[i] = 128 + 60 * Math.cos((k + 2) * x * Math.PI) * Math.sin((k + 1) * y * Math.PI) + ((i * 7919) % 31)
    }
    const found = await run(pixels, 1, side, side, names)
    for (const name of names) answers.push(...Array.from(found[name].data, Number))
  }
  return { answers, rate: (1000 * count) / (performance.now() - started) }
}

const tasks = { open, show, occlude, trial }

self.onmessage = async ({ data: { id, task, given } }) => {
  const progress = (/** @type {number} */ share) => postMessage({ id, progress: share })
  try {
    const alone = async () => [await tasks[/** @type {keyof typeof tasks} */ (task)](given[0], progress)]
    const results = await (task === 'answer' ? answer(given) : alone())
    postMessage({ id, results, broken })
  } catch (error) {
    postMessage({ id, error: firstLine(error), broken: broken || task === 'open' })
  }
}
