// The bytes of a JPEG, PNG or DICOM file to the grey levels that a viewer shows, as predict.py decodes them, in a
// browser and in node.

import { textOf } from './bytes.js'
import { isJpeg, readJpeg } from './jpeg.js'
import { counted, MAX_BYTES } from './limits.js'
import { isPng, readPng } from './png.js'
import { upright } from './turning.js'

/**
 * @typedef {object} Film a decoded file
 * @property {Uint8Array} grey (height, width) row by row, 0 is black
 * @property {number} height in pixels
 * @property {number} width
 * @property {string} mode how the file stores its pixels: "L", "RGB", "I;16", "DICOM MONOCHROME2", ...
 * @property {string} warning what a person should know of how it was read, else ""
 * @property {number} saturation mean over the film, 0 to 255; of a photograph above 15
 * @property {boolean} guessed whether the file does not say how many bits its levels have
 * @property {'jpeg' | 'png' | 'dicom'} kind
 */
/** @typedef {(name: string) => Promise<any>} Codec Emscripten's module of a decoder that JavaScript lacks, by npm's name */

/**
 * @param {Uint8Array} content the bytes of a file
 * @param {Codec} codec
 * @returns {Promise<Film>}
 * @throws {Error} of one line, with the reason
 */
export async function readFilm(content, codec) {
  if (content.length > MAX_BYTES) throw new Error(`a file of more than ${counted(MAX_BYTES)} bytes`)
  if (textOf(content.subarray(128, 132)) === 'DICM') {
    const { readDicom } = await import('./dicom.js') // the larger half of this folder, which most films do not need
    return { ...(await readDicom(content, codec)), kind: 'dicom' }
  }
  const kind = isJpeg(content) ? 'jpeg' : 'png'
  if (kind === 'png' && !isPng(content)) {
    throw new Error(content.length ? 'not a JPEG, PNG or DICOM file' : 'the file is empty')
  }
  const picture = kind === 'jpeg' ? await readJpeg(content, codec) : await readPng(content)
  const { orientation, grey, height, width, ...said } = picture
  return { ...said, ...upright(grey, height, width, orientation), kind }
}
