// What a graph of export.py says of chest X-rays: node predict.mjs model.onnx film.jpeg [film.png ...]
// Prints a line for each film: file, probability of pneumonia, decision, and "refer" where a person should read it (a
// graph of an earlier version does not say); tabs between. For research, not for patients.

import { readFile } from 'node:fs/promises'
import * as ort from 'onnxruntime-web/wasm' // onnxruntime for browsers, which node runs too: no native library
import sharp from 'sharp'

// One thread: the answer then does not depend on the machine, and no worker keeps node from ending.
ort.env.wasm.numThreads = 1

/** Grey pixels of an 8-bit JPEG or PNG, as the (1, H, W) uint8 tensor that the graph takes; it resizes by itself. */
async function decode(content) {
  // As the training images were decoded: turned as EXIF data say, and colour profiles left alone.
  const image = sharp(content, { ignoreIcc: true }).autoOrient()
  const { format, space } = await image.metadata()
  if (!['jpeg', 'png'].includes(format) || !['b-w', 'srgb'].includes(space)) {
    throw new Error(`not a JPEG or PNG with 8 bits of grey or RGB, but ${format} with ${space}`)
  }
  // Three bytes a pixel, equal ones where the file is grey. Transparency is dropped, not blended. Another JPEG decoder
  // may be a grey level off here and there; sharp's and Pillow's are both libjpeg-turbo.
  const { data: rgb, info } = await image.removeAlpha().raw().toBuffer({ resolveWithObject: true })
  const grey = new Uint8Array(info.width * info.height)
  for (let i = 0; i < grey.length; i++) {
    // ITU-R 601-2 luma in Pillow's integers. sharp's own greyscale() weighs linear light, which is another picture.
    grey[i] = (rgb[3 * i] * 19595 + rgb[3 * i + 1] * 38470 + rgb[3 * i + 2] * 7471 + 0x8000) >> 16
  }
  return new ort.Tensor('uint8', grey, [1, info.height, info.width])
}

/** The bytes of a graph; of what is none, but lies about beside graphs, an error that says what to do. */
async function graph(path) {
  const content = await readFile(path)
  // What torch.save writes: a zip archive, with a pickle near its start.
  if (content.subarray(0, 4).toString('latin1') === 'PK\x03\x04' && content.subarray(0, 300).includes('/data.pkl')) {
    throw new Error(`that is a checkpoint: python export.py ${path} makes a graph of it`)
  }
  return content
}

const REASONS = { ENOENT: 'no such file', EISDIR: 'that is a folder: a file is needed' }

function complain(file, error) {
  const reason = REASONS[error.code] ?? String(error.message ?? error).split('\n')[0]
  console.error(`error: ${file}: ${reason}`)
  process.exitCode = 1
}

const [model, ...films] = process.argv.slice(2)
if (!films.length) {
  console.error('usage: node predict.mjs model.onnx film.jpeg [film.png ...]')
  process.exit(2)
}
const session = await graph(model)
  .then((content) => ort.InferenceSession.create(content))
  .catch((error) => complain(model, error))
for (const film of session ? films : []) {
  try {
    const { probability, decision, refer } = await session.run({ image: await decode(await readFile(film)) })
    // int64 arrives as a BigInt, which is never === 1
    const said = [film, probability.data[0].toFixed(6), decision.data[0] === 1n ? 'yes' : 'no']
    console.log([...said, ...(refer ? [refer.data[0] === 1n ? 'refer' : '-'] : [])].join('\t'))
  } catch (error) {
    complain(film, error) // the other films can still be read; the exit code tells
  }
}
