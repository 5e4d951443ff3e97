// A film, and over it in colours where the network sees pneumonia: as predict.py --heatmaps draws it.

import { evenly } from './numbers.js'
import { BICUBIC, resized } from './resizing.js'

/** @typedef {{heat: Float32Array, rows: number, columns: number}} Heat */
/** @typedef {{grey: Uint8Array, height: number, width: number}} Picture */

// Matplotlib's viridis at 0, 1/16, ... 1, by van der Walt and Smith (CC0): even steps, also to the colour-blind.
const VIRIDIS =
  '440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725'
    .split(' ')
    .map((colour) => [0, 2, 4].map((at) => parseInt(colour.slice(at, at + 2), 16)))
export const STRENGTH = 0.6 // of the colours, at most: the film shows through

/**
 * Red, green and blue, 0 to 255, of a value of 0 to 1.
 * @param {number} value
 */
export function viridis(value) {
  const place = Math.min(1, Math.max(0, value)) * (VIRIDIS.length - 1)
  const step = Math.min(VIRIDIS.length - 2, Math.floor(place))
  return VIRIDIS[step].map((level, i) => level + (VIRIDIS[step + 1][i] - level) * (place - step))
}

/**
 * The film with its longer side that long.
 * @param {Uint8Array} grey
 * @param {number} height
 * @param {number} width
 * @param {number} longest pixels
 */
export function preview(grey, height, width, longest) {
  const scale = Math.min(1, longest / Math.max(height, width))
  const [rows, columns] = [height, width].map((side) => Math.max(1, evenly(side * scale)))
  return { grey: resized(grey, height, width, rows, columns, BICUBIC), height: rows, width: columns }
}

/**
 * A heat map of the network's square, resized to lie on a film drawn with (height, width) pixels.
 *
 * The square is the whole film, or with "pad" a larger one around it, or with "crop" the middle of it; then what the
 * network did not see is 0.
 * @param {Heat} map
 * @param {number} height
 * @param {number} width
 * @param {string} fit
 */
export function overFilm(map, height, width, fit) {
  const side = fit === 'pad' ? Math.max(height, width) : fit === 'crop' ? Math.min(height, width) : 0
  const [rows, columns] = side ? [side, side] : [height, width]
  const heat = map.heat.map((value) => (Number.isFinite(value) ? value : 0))
  const square = resized(heat, map.rows, map.columns, rows, columns, BICUBIC)
  // Below 0 where the film is the larger one.
  const [left, top] = [Math.trunc((columns - width) / 2), Math.trunc((rows - height) / 2)]
  const made = new Float32Array(height * width)
  for (let y = Math.max(0, -top); y < height && y + top < rows; y++) {
    for (let x = Math.max(0, -left); x < width && x + left < columns; x++) {
      made[y * width + x] = square[(y + top) * columns + x + left]
    }
  }
  return made
}

/**
 * What the strongest colour stands for: to show less at full strength would make noise look like findings.
 * @param {Heat} map
 */
export function topOf(map) {
  return map.heat.reduce((top, value) => (Number.isFinite(value) ? Math.max(top, value) : top), 1)
}

/**
 * RGBA of a film under a heat map where that is above 0.
 * @param {Uint8Array} grey
 * @param {Float32Array | null} heat as overFilm makes it
 * @param {number} top
 * @param {number} strength 0 to 1
 */
export function mixed(grey, heat, top, strength) {
  const pixels = new Uint8ClampedArray(4 * grey.length)
  for (let i = 0; i < grey.length; i++) {
    const level = heat ? Math.min(1, Math.max(0, heat[i] / top)) : 0
    const weight = strength * Math.min(1, 2 * level)
    const colour = weight ? viridis(level) : null
    for (let k = 0; k < 3; k++) pixels[4 * i + k] = colour ? grey[i] * (1 - weight) + colour[k] * weight : grey[i]
    pixels[4 * i + 3] = 255
  }
  return pixels
}

/**
 * Draws grey levels, or RGBA, into a canvas of that size.
 * @param {HTMLCanvasElement} canvas
 * @param {Uint8ClampedArray<ArrayBuffer>} rgba
 * @param {number} height
 * @param {number} width
 */
export function draw(canvas, rgba, height, width) {
  canvas.width = width
  canvas.height = height
  canvas.getContext('2d')?.putImageData(new ImageData(rgba, width, height), 0, 0)
}

/**
 * The colours from 1, at the top, to 0.
 * @param {HTMLCanvasElement} canvas
 */
export function drawScale(canvas) {
  const rows = 128
  const rgba = new Uint8ClampedArray(4 * rows)
  for (let y = 0; y < rows; y++) rgba.set([...viridis(1 - y / (rows - 1)), 255], 4 * y)
  draw(canvas, rgba, rows, 1)
}
