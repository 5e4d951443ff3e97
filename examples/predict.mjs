// What a graph of export.py says of chest X-rays: node predict.mjs model.onnx film.jpeg [film.png film.dcm ...]
// Prints a line for each film: file, probability of pneumonia, decision, "refer" where a person should read it, and
// what is unusual about it, or "-" (a graph of an earlier version says neither of these two); tabs between. It needs
// the packages of package.json: npm ci. For research, not for patients.

import { readFile } from 'node:fs/promises'
import * as ort from 'onnxruntime-web/wasm' // onnxruntime for browsers, which node runs too: no native library
import { COLOURED } from '../page/answers.js'
import { metadataOf } from '../page/metadata.js'
import { readFilm } from '../page/reading/film.js' // reads films as predict.py does, here and in a browser
import { codec } from './codec.mjs'

// One thread: the answer then does not depend on the machine, and no worker keeps node from ending.
ort.env.wasm.numThreads = 1

/**
 * A graph, and the names of its flags by their bits; of what is none, but lies about beside graphs, an error that says
 * what to do.
 * @param {string} path
 */
async function open(path) {
  const content = await readFile(path)
  // What torch.save writes: a zip archive, with a pickle near its start.
  if (content.subarray(0, 4).toString('latin1') === 'PK\x03\x04' && content.subarray(0, 300).includes('/data.pkl')) {
    throw new Error(`that is a checkpoint: python export.py ${path} makes a graph of it`)
  }
  const session = await ort.InferenceSession.create(content)
  /** @type {Record<string, number>} */
  const bits = JSON.parse(metadataOf(content).get('flags') ?? '{}').bits ?? {}
  return { session, bits }
}

/**
 * The line about a film.
 * @param {Awaited<ReturnType<typeof open>>} graph
 * @param {string} path
 */
async function answer({ session, bits }, path) {
  const { grey, height, width, saturation, guessed } = await readFilm(await readFile(path), codec)
  // The graph resizes by itself.
  const found = await session.run({ image: new ort.Tensor('uint8', grey, [1, height, width]) })
  const { probability, decision, refer, flags } = found
  const said = [path, Number(probability.data[0]).toFixed(6), isOne(decision) ? 'yes' : 'no']
  if (!refer) return said.join('\t')
  // The graph sees grey levels only; what else was found while reading is added.
  const own =
    Number(flags.data[0]) | (saturation > COLOURED ? bits.coloured : 0) | (guessed ? bits['guessed levels'] : 0)
  const names = Object.keys(bits).filter((name) => own & bits[name])
  return [...said, isOne(refer) ? 'refer' : '-', names.join('; ') || '-'].join('\t')
}

/**
 * Whether an output of one number is 1; an int64 arrives as a BigInt.
 * @param {ort.Tensor} output
 */
function isOne(output) {
  return Number(output.data[0]) === 1
}

/** @type {Record<string, string>} */
const REASONS = { ENOENT: 'no such file', EISDIR: 'that is a folder: a file is needed' }

/**
 * @param {string} file
 * @param {any} error
 */
function complain(file, error) {
  const reason = REASONS[error.code] ?? String(error.message ?? error).split('\n')[0]
  console.error(`error: ${file}: ${reason}`)
  process.exitCode = 1
}

const [model, ...films] = process.argv.slice(2)
if (!films.length) {
  console.error('usage: node predict.mjs model.onnx film.jpeg [film.png film.dcm ...]')
  process.exit(2)
}
const graph = await open(model).catch((error) => complain(model, error))
if (graph) {
  // What is wrong with one film is said, and the others are still read; the exit code tells.
  for (const film of films) await answer(graph, film).then(console.log, (error) => complain(film, error))
}
