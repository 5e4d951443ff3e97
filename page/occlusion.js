// Where a network sees it, of one that has no heat map: by how much its answer falls where a grey patch covers the film.

import { evenly } from './numbers.js'
import { BILINEAR, resized } from './resizing.js'

const CELLS = 10 // to a side of the film; the patch covers 2 x 2 of them
const PASSES = (CELLS - 1) ** 2 + 1 // through the network for each film
const BATCH = 16

/**
 * (CELLS, CELLS) of log-odds of pneumonia: how far they fall where the place is covered.
 * @param {Uint8Array} pixels row by row
 * @param {number} height
 * @param {number} width
 * @param {{size: number, temperature: number}} model
 * @param {(pixels: Uint8Array, count: number, height: number, width: number) => Promise<ArrayLike<number>>} logitsOf
 * two for each of so many films
 * @param {(share: number) => void} progress
 */
export async function occlusion(pixels, height, width, model, logitsOf, progress) {
  // The film is no larger than the network sees it.
  const scale = Math.min(1, model.size / Math.min(height, width), Math.sqrt((4 * model.size ** 2) / (height * width)))
  const [rows, columns] = [height, width].map((side) => Math.max(1, evenly(side * scale)))
  const grey = resized(pixels, height, width, rows, columns, BILINEAR)
  const level = evenly(grey.reduce((sum, value) => sum + value, 0) / grey.length)
  const [top, left] = [rows, columns].map(borders)
  const places = Array.from({ length: PASSES - 1 }, (_, k) => [Math.floor(k / (CELLS - 1)), k % (CELLS - 1)])
  /** @type {number[]} */
  const odds = []
  for (let first = 0; first < PASSES; first += BATCH) {
    const count = Math.min(BATCH, PASSES - first)
    const covered = new Uint8Array(count * grey.length)
    for (let k = 0; k < count; k++) {
      const copy = covered.subarray(k * grey.length, (k + 1) * grey.length)
      copy.set(grey)
      if (first + k === places.length) continue // the last one stays as it is
      const [i, j] = places[first + k]
      for (let y = top[i]; y < top[i + 2]; y++) copy.fill(level, y * columns + left[j], y * columns + left[j + 2])
    }
    const logits = await logitsOf(covered, count, rows, columns)
    for (let k = 0; k < count; k++) odds.push((logits[2 * k + 1] - logits[2 * k]) / model.temperature)
    progress((first + count) / PASSES)
  }
  return spread(odds, places)
}

/**
 * Each cell's mean over the patches that cover it.
 * @param {number[]} odds of the film under each patch, and at last without one
 * @param {number[][]} places
 */
function spread(odds, places) {
  const [total, count] = [new Float32Array(CELLS ** 2), new Float32Array(CELLS ** 2)]
  places.forEach(([i, j], k) => {
    for (const cell of [i * CELLS + j, i * CELLS + j + 1, (i + 1) * CELLS + j, (i + 1) * CELLS + j + 1]) {
      total[cell] += odds[odds.length - 1] - odds[k]
      count[cell] += 1
    }
  })
  return { heat: total.map((sum, cell) => sum / count[cell]), rows: CELLS, columns: CELLS }
}

/** @param {number} side */
function borders(side) {
  return Array.from({ length: CELLS + 1 }, (_, i) => Math.trunc(i * (side / CELLS)))
}
