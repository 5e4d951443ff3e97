// What node decodes for page/reading/film.js: JPEG by sharp, and the kinds of DICOM by the modules that a page has too.

import { createRequire } from 'node:module'
import sharp from 'sharp'

const require = createRequire(import.meta.url)
/** @type {Map<string, any>} */
const loaded = new Map()

/** @type {import('../page/reading/film.js').Host} */
export const host = {
  async jpeg(content) {
    // sharp's libvips and Pillow are both libjpeg-turbo. Damage that libjpeg repairs is no reason to refuse a film.
    const image = sharp(content, { failOn: 'none', ignoreIcc: true, limitInputPixels: false })
    const inks = (await image.metadata()).space === 'cmyk'
    if (inks) image.pipelineColourspace('cmyk').toColourspace('cmyk')
    const { data, info } = await image.raw().toBuffer({ resolveWithObject: true })
    return { data: inks ? lightOf(data) : data, channels: info.channels, width: info.width, height: info.height }
  },
  async codec(name) {
    if (!loaded.has(name)) loaded.set(name, await load(name))
    return loaded.get(name)
  },
}

/**
 * Cyan, magenta, yellow and black as red, green and blue, in Pillow's integers, with the black left behind them.
 * @param {Uint8Array} inks
 */
function lightOf(inks) {
  const light = inks.slice()
  for (let at = 0; at < light.length; at += 4) {
    const white = 255 - light[at + 3]
    for (let k = at; k < at + 3; k++) {
      const product = light[k] * white + 128
      light[k] = white - (((product >> 8) + product) >> 8)
    }
  }
  return light
}

/** @param {string} name */
async function load(name) {
  const make = require(`@cornerstonejs/codec-${name}/decodewasmjs`) // CommonJS, with its WebAssembly beside it
  const wasm = require.resolve(`@cornerstonejs/codec-${name}/decodewasm`)
  const quiet = () => {} // what goes wrong is thrown
  return make({ locateFile: () => wasm, print: quiet, printErr: quiet })
}
