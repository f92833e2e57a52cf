/** XML as S3 writes it: elements and text, nothing else. */

/** Children by name; an array repeats its element, undefined leaves it out. */
type XmlContent = string | number | boolean | XmlElement;
export interface XmlElement {
  [name: string]: XmlContent | XmlContent[] | undefined;
}

const namespace = "http://s3.amazonaws.com/doc/2006-03-01/";

export function formatXml(
  root: string,
  content: XmlElement,
  { namespaced = true }: { namespaced?: boolean } = {},
): string {
  const attribute = namespaced ? ` xmlns="${namespace}"` : "";
  return `<?xml version="1.0" encoding="UTF-8"?>\n<${root}${attribute}>${formatChildren(content)}</${root}>\n`;
}

function formatChildren(content: XmlElement): string {
  return Object.entries(content)
    .map(([name, value]) => {
      if (value === undefined) return "";
      const values = Array.isArray(value) ? value : [value];
      return values.map((each) => `<${name}>${formatContent(each)}</${name}>`).join("");
    })
    .join("");
}

function formatContent(content: XmlContent): string {
  return typeof content === "object" ? formatChildren(content) : escapeText(String(content));
}

// What XML reserves, and what XML 1.0 can't hold at all.
const unsafeCharacter = /[&<>"']|[^\P{Cc}\t\n]|[\ufffe\uffff]/gu;
const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/**
 * Text with what XML reserves escaped. Control characters are written as character references, as S3
 * does: `encoding-type=url` is for those who need to read them.
 */
function escapeText(text: string): string {
  return text.replace(
    unsafeCharacter,
    (character) =>
      entities[character] ?? `&#x${character.charCodeAt(0).toString(16).toUpperCase()};`,
  );
}
