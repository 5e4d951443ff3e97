// Decodes films for tests: node decode.mjs PROJECT FILES.json. Beside each file its grey levels are written, row by
// row, and a line says the rest, or what is wrong.

import { readFile, writeFile } from 'node:fs/promises'
import { pathToFileURL } from 'node:url'

const [project, list] = process.argv.slice(2)
const { readFilm } = await import(pathToFileURL(`${project}/page/reading/film.js`).href)
const { codec } = await import(pathToFileURL(`${project}/examples/codec.mjs`).href)
for (const file of JSON.parse(await readFile(list, 'utf8'))) {
  try {
    const { grey, ...said } = await readFilm(await readFile(file), codec)
    await writeFile(`${file}.grey`, grey)
    console.log(JSON.stringify(said))
  } catch (error) {
    console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }))
  }
}
