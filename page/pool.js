// Several workers, each with the graph: what is asked of them, in order, and a new one for one that failed.

const TOGETHER = 'answer' // the task of which a worker does several jobs at once
const MOST = 8 // of them

/**
 * @typedef {object} Job
 * @property {string} task
 * @property {any} given
 * @property {(result: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(share: number) => void} [progress]
 */
/**
 * What a worker opens.
 * @typedef {object} Setup
 * @property {string} graph
 * @property {string} sha256
 * @property {string[]} onCpu nodes of the graph that WebGPU cannot compute
 * @property {'wasm' | 'webgpu'} provider
 */

/** One worker, which does the jobs of one message at a time. */
class Helper {
  /** @type {Job[]} */
  jobs = []
  #worker
  #id = 0

  /** @param {(broken: boolean) => void} free called after each job */
  constructor(free) {
    // By way of a blob, the worker has this page's Content-Security-Policy: it can send nothing either.
    const source = `import ${JSON.stringify(new URL('./worker.js', import.meta.url).href)}`
    const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }))
    this.#worker = new Worker(address, { type: 'module' })
    const done = (/** @type {(job: Job, i: number) => void} */ settle, broken = false) => {
      this.jobs.splice(0).forEach(settle)
      free(broken)
    }
    this.#worker.onmessage = ({ data }) => {
      URL.revokeObjectURL(address)
      if (data.id !== this.#id || !this.jobs.length) return
      if (data.progress !== undefined) this.jobs[0].progress?.(data.progress)
      else if (data.error !== undefined) done((job) => job.reject(new Error(data.error)), data.broken)
      else done((job, i) => job.resolve(data.results[i]), data.broken)
    }
    this.#worker.onerror = (event) => {
      event.preventDefault()
      const reason = event.message || 'a part of this page could not be loaded: copy the whole folder again'
      done((job) => job.reject(new Error(reason)), true)
    }
  }

  /** @param {Job[]} jobs of one task */
  start(jobs) {
    this.jobs = jobs
    this.#worker.postMessage({ id: ++this.#id, task: jobs[0].task, given: jobs.map((job) => job.given) })
  }

  stop() {
    this.#worker.terminate()
    for (const job of this.jobs.splice(0)) job.reject(new Error('stopped'))
  }
}

export class Pool {
  /** @type {Job[]} */
  #waiting = []
  /** @type {Set<Helper>} */
  #helpers = new Set()
  #setup
  #most
  #stopped = false

  /**
   * @param {Setup} setup
   * @param {number} most workers at once; there is one at first, and more when there is more to do
   */
  constructor(setup, most) {
    this.#setup = setup
    this.#most = most
  }

  get most() {
    return this.#most
  }

  /**
   * What is asked of the next worker that is free.
   * @param {string} task
   * @param {any} given
   * @param {{first?: boolean, progress?: (share: number) => void}} [options] first: before all that waits
   * @returns {Promise<any>}
   */
  ask(task, given, { first = false, progress } = {}) {
    return new Promise((resolve, reject) => {
      const job = { task, given, resolve, reject, progress }
      if (first) this.#waiting.unshift(job)
      else this.#waiting.push(job)
      this.#next()
    })
  }

  /** Opens a first worker; its model, or what is wrong with the graph. */
  async open() {
    return this.#hire()
  }

  /** Drops what waits. */
  forget() {
    for (const job of this.#waiting.splice(0)) job.reject(new Error('stopped'))
  }

  stop() {
    this.#stopped = true
    for (const helper of this.#helpers) helper.stop()
    this.forget()
  }

  /** @returns {Promise<import('./model.js').Model>} */
  #hire() {
    /** @type {Helper} */
    const helper = new Helper((broken) => {
      if (broken) {
        helper.stop()
        this.#helpers.delete(helper)
      }
      this.#next()
    })
    this.#helpers.add(helper)
    return new Promise((resolve, reject) => {
      helper.start([{ task: 'open', given: this.#setup, resolve, reject }])
    })
  }

  #next() {
    if (this.#stopped) return
    for (const helper of this.#helpers) {
      if (!helper.jobs.length && this.#waiting.length) helper.start(this.#waiting.splice(0, this.#share()))
    }
    if (this.#waiting.length && this.#helpers.size < this.#most) {
      this.#hire().catch((error) => {
        this.#waiting.shift()?.reject(error) // and the others are tried again
        this.#next()
      })
    }
  }

  /** How many jobs a worker takes: several films, but not those that other workers could begin with. */
  #share() {
    const others = this.#waiting.findIndex(({ task }) => task !== TOGETHER)
    const films = others < 0 ? this.#waiting.length : others
    return Math.max(1, Math.min(MOST, Math.floor(films / this.#most)))
  }
}
