// What the modules of the page hand to each other. No page loads this file: it is for who reads them, and for tsc.

/** What validation says of one rate, with its 95 % interval; null where there is none. */
export interface Rate {
  value: number | null
  low: number | null
  high: number | null
}

/** A threshold that validation chose, and what it found of it, in words, or "". */
export interface Point {
  threshold: number
  said: string
  sensitivity?: Rate
  specificity?: Rate
  images?: number
  patients?: number
}

/** What a graph says of itself. */
export interface Model {
  name: string
  label: string // its name and the start of the file's SHA-256
  classes: [string, string] // the decision 1 is the second
  threshold: number
  rule: string // how the threshold was chosen
  temperature: number
  size: number // pixels of the square that the network sees
  heatmap: boolean // whether the graph has that output
  fit: string // how a film becomes that square: "stretch", "pad" or "crop"
  use: string // what it may be used for
  synthetic: boolean // whether its training data were drawings
  quick: boolean // whether a smoke run made it
  trained: string // the name of its training data
  licence: string // of these data, or ""
  later: boolean // whether it says what it does not know: graphs of earlier versions do not
  flags: Record<string, number> // bits by name
  forbidding: number // the bits that forbid an answer
  promise: string // of what is left possible, in words
  points: Record<string, Point> // operating points by name
}

/** What the graph's outputs are for one film; those from `unfamiliar` on are not there in graphs of earlier versions. */
export interface Found {
  probability: number // a float32
  decision: bigint
  unfamiliar?: number
  flags?: bigint
  possible?: boolean[]
  refer?: bigint
}

/** What is known of a file before it has a row. */
export interface Read {
  file: string
  height?: number
  width?: number
  saturation?: number // mean, 0 to 255
  guessed?: boolean // how many bits its levels have: the file does not say so
  warning?: string
  error?: string
  found?: Found
}

/** A row; null where there is nothing. */
export type Row = {
  file: string
  probability: number | null
  decision: string | null
  threshold: number
  refer: boolean | null
  flags: string | null
  possible: string | null
  unfamiliar: number | null
  width: number | null
  height: number | null
  warning: string | null
  error: string | null
  heatmap: null
  model: string
}

export interface Film {
  name: string
  file: File
  read: Read | null
}

/** What export.py says of this folder, in site.json. */
export interface Site {
  graph: { file: string; bytes: number; sha256: string; certificate: string | null; on_cpu: string[] }
  runtime: string
  examples: { file: string; thumbnail: string; about: string }[]
  credit: string // of the examples
}
