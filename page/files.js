// What people drop or choose, as films in the order of predict.py: folders are searched, files tried whatever their names.

/** @typedef {{file: File, name: string}} Source name: with the folders above it */

const SUFFIXES = ['.jpg', '.jpeg', '.png', '.dcm', '.dicom']

/**
 * What to do once a drop is over: the browser forgets what was dropped as soon as its event ends.
 * @param {DataTransfer} dropped
 * @param {Map<string, number>} passedOver how many files were no films, by their suffix
 * @returns {() => AsyncGenerator<Source>}
 */
export function droppedFilms(dropped, passedOver) {
  const items = [...dropped.items].filter((item) => item.kind === 'file')
  const entries = items.map((item) => item.webkitGetAsEntry() ?? item.getAsFile()).filter((entry) => entry !== null)
  return async function* () {
    for (const entry of entries) {
      if (entry instanceof File) yield { file: entry, name: entry.name }
      else if (entry.isFile) yield await sourceOf(/** @type {FileSystemFileEntry} */ (entry))
      else yield* below(/** @type {FileSystemDirectoryEntry} */ (entry), passedOver)
    }
  }
}

/**
 * @param {FileList} files of an <input>
 * @param {Map<string, number>} passedOver
 * @returns {() => AsyncGenerator<Source>}
 */
export function chosenFilms(files, passedOver) {
  const sources = [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name }))
  sources.sort((a, b) => inOrder(a.name.split('/'), b.name.split('/')))
  return async function* () {
    for (const source of sources) {
      const parts = source.name.split('/')
      const hidden = parts.slice(1).some(isHidden)
      if (parts.length === 1 || (!hidden && (await isFilm(source.file, passedOver)))) yield source
    }
  }
}

/**
 * @param {string[]} a
 * @param {string[]} b
 */
function inOrder(a, b) {
  const at = a.findIndex((part, i) => part !== b[i])
  return at < 0 ? a.length - b.length : b[at] === undefined || a[at] > b[at] ? 1 : -1
}

/** @param {string} name */
function isHidden(name) {
  return name.startsWith('.') || name === '__MACOSX'
}

/**
 * The films below a folder, sorted by their names.
 * @param {FileSystemDirectoryEntry} folder
 * @param {Map<string, number>} passedOver
 * @returns {AsyncGenerator<Source>}
 */
async function* below(folder, passedOver) {
  const reader = folder.createReader()
  /** @type {FileSystemEntry[]} */
  const entries = []
  for (;;) {
    // A hundred or so at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))
    if (!some.length) break
    entries.push(...some)
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const entry of entries.filter(({ name }) => !isHidden(name))) {
    if (entry.isDirectory) {
      yield* below(/** @type {FileSystemDirectoryEntry} */ (entry), passedOver)
    } else {
      const source = await sourceOf(/** @type {FileSystemFileEntry} */ (entry))
      if (await isFilm(source.file, passedOver)) yield source
    }
  }
}

/**
 * @param {FileSystemFileEntry} entry
 * @returns {Promise<Source>}
 */
async function sourceOf(entry) {
  /** @type {File} */
  const file = await new Promise((resolve, reject) => entry.file(resolve, reject))
  return { file, name: entry.fullPath.replace(/^\//, '') }
}

/**
 * Whether a file in a folder is a film, by its suffix or DICOM's mark; else it is counted.
 * @param {File} file
 * @param {Map<string, number>} passedOver
 */
async function isFilm(file, passedOver) {
  const suffix = /[^.](\.[^.]*)$/.exec(file.name)?.[1].toLowerCase() ?? ''
  const directory = file.name.toUpperCase() === 'DICOMDIR' // DICOM's table of contents
  if (!directory && SUFFIXES.includes(suffix)) return true
  if (
    !directory &&
    (await file
      .slice(128, 132)
      .text()
      .catch(() => '')) === 'DICM'
  )
    return true
  const kind = directory ? 'DICOMDIR' : suffix || 'without a suffix'
  passedOver.set(kind, (passedOver.get(kind) ?? 0) + 1)
  return false
}
