// What computes: WebGPU where it gives the answers of WebAssembly, and faster; else WebAssembly.

import { made, the } from './dom.js'
import { numbered } from './numbers.js'
import { Pool } from './pool.js'

/** @typedef {import('./pool.js').Setup} Setup */
/** @typedef {{answers: number[], rate: number}} Trial */

const WORKER_BYTES = 100e6 // of a worker, beside four times its graph
const MEMORY = 1e9 // for all of them
const TRIED = 6 // drawn patterns
const TOLERANCE = 1e-3 // as for a proof on a GPU: of probability, and of other numbers relative to themselves

/**
 * WebAssembly in as many workers as there are cores, and memory for.
 * @param {Omit<Setup, 'provider'>} setup
 * @param {number} bytes of the graph
 */
export function wasmPool(setup, bytes) {
  const fitting = Math.floor(MEMORY / (WORKER_BYTES + 4 * bytes))
  return new Pool({ ...setup, provider: 'wasm' }, Math.max(1, Math.min(navigator.hardwareConcurrency || 1, 8, fitting)))
}

/** Whether this browser has a GPU for us. */
async function hasGpu() {
  const gpu = /** @type {any} */ (navigator).gpu
  return Boolean(gpu && (await gpu.requestAdapter().catch(() => null)))
}

/**
 * A worker on the GPU, and what speaks against it, or "".
 * @param {Omit<Setup, 'provider'>} setup
 * @param {Pool} wasm what it has to agree with
 * @returns {Promise<{pool: Pool, against: string, faster: boolean}>}
 */
async function gpuPool(setup, wasm) {
  const pool = new Pool({ ...setup, provider: 'webgpu' }, 1)
  try {
    await pool.open()
    /** @type {Trial} */
    const found = await pool.ask('trial', { count: TRIED })
    /** @type {Trial} */
    const expected = await wasm.ask('trial', { count: TRIED }, { first: true })
    const same = expected.answers.every((value, i) => {
      return Math.abs(found.answers[i] - value) <= TOLERANCE * Math.max(1, Math.abs(value))
    })
    const against = same ? '' : 'WebGPU gives other answers here'
    return { pool, against, faster: found.rate > expected.rate * wasm.most }
  } catch (error) {
    return { pool, against: `WebGPU does not work here (${/** @type {Error} */ (error).message})`, faster: false }
  }
}

/**
 * What computes, to be chosen; by itself the GPU, where it gives the same answers, and faster.
 * @param {Omit<Setup, 'provider'>} setup
 * @param {Pool} wasm
 * @param {(pool: Pool) => void} use
 */
export async function offerComputing(setup, wasm, use) {
  let pool = wasm
  const select = /** @type {HTMLSelectElement} */ (the('computing'))
  const here = `WebAssembly with SIMD, up to ${numbered(wasm.most, 'film')} at once`
  const gpu = await hasGpu()
  const option = (/** @type {string} */ value, /** @type {string} */ text, disabled = false) =>
    made('option', { value, disabled }, [text])
  select.replaceChildren(
    option('fastest', 'what is fastest and gives the same answers'),
    option('wasm', 'WebAssembly'),
    option('webgpu', gpu ? 'WebGPU' : 'WebGPU (none here)', !gpu),
  )
  const change = async () => {
    const wanted = select.value
    let [next, text] = [wasm, here]
    if (wanted === 'webgpu' || (wanted === 'fastest' && gpu)) {
      the('computed').textContent = 'trying WebGPU'
      const tried = await gpuPool(setup, wasm)
      if (wanted !== select.value) return tried.pool.stop()
      if (!tried.against && (tried.faster || wanted === 'webgpu')) [next, text] = [tried.pool, 'WebGPU']
      else {
        tried.pool.stop()
        text = `${here}; ${tried.against || 'WebGPU is slower here'}`
      }
    }
    if (pool !== wasm && pool !== next) pool.stop()
    pool = next
    use(pool)
    the('computed').textContent = `now: ${text}`
  }
  select.onchange = change
  await change()
}
