// Small things about elements.

/**
 * The element of that id, which the page has.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function the(id) {
  return /** @type {T} */ (document.getElementById(id))
}

/**
 * An element with these contents, and these properties.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {(Node | string)[]} [inside]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function made(tag, properties = {}, inside = []) {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...inside)
  return element
}

/**
 * Terms and what they are, in a <dl>.
 * @param {HTMLElement} list
 * @param {[string, string | Node][]} facts those without a text are left out
 */
export function showFacts(list, facts) {
  const shown = facts.filter(([, value]) => value !== '')
  list.replaceChildren(...shown.flatMap(([name, value]) => [made('dt', {}, [name]), made('dd', {}, [value])]))
}
