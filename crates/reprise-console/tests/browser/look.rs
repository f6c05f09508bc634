//! Looks at a page as different people do: light, dark, on a phone; takes its picture.

use base64::Engine;

use crate::driver::Page;

/// How it is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Light,
    Dark,
    Phone,
}

/// Texts that are hard to read: less contrast than WCAG 2.2 AA asks for (4.5, or 3 for large text).
const CONTRAST: &str = r"
const channel = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const back = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const e = node.parentElement;
  if (!node.textContent.trim() || e.closest('script, option, .hidden, .skip') || !e.checkVisibility()) continue;
  const s = getComputedStyle(e);
  const [x, y] = [light(parse(s.color)), light(back(e))];
  const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  const size = parseFloat(s.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(s.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)}: ${node.textContent.trim().slice(0, 40)} (${e.className})`);
}
return bad.join('\n');
";

/// What sticks out of the page to the right.
const OVERFLOW: &str = r"
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return '';
return [...document.body.querySelectorAll('*')]
  .filter((e) => e.getBoundingClientRect().right > width + 1 && !e.closest('.scroll, pre'))
  .map((e) => e.outerHTML.slice(0, 120)).slice(0, 5).join('\n') || 'something';
";

/// Things to press that are too small for a finger (WCAG 2.2, 2.5.8: 24 by 24 pixels, links in text aside).
const SMALL: &str = r"
return [...document.querySelectorAll('button, input:not([type=hidden]), select, summary, nav a, .button')]
  .filter((e) => e.checkVisibility() && !e.closest('.hidden') && !e.classList.contains('hidden'))
  .filter((e) => { const r = e.getBoundingClientRect(); return e.labels?.length && /checkbox|radio/.test(e.type) ? false : r.width < 24 || r.height < 24; })
  .map((e) => e.outerHTML.slice(0, 120)).join('\n');
";

/// Goes to a page and looks at it.
pub(crate) async fn at(page: &Page, path: &str, name: &str, kind: Kind) {
    page.go(path).await;
    at_here(page, name, kind).await;
}

/// Looks at the page that is there.
pub(crate) async fn at_here(page: &Page, name: &str, kind: Kind) {
    let suffix = match kind {
        Kind::Light => "light",
        Kind::Dark => "dark",
        Kind::Phone => "phone",
    };
    page.scheme(if matches!(kind, Kind::Dark) { "dark" } else { "light" }).await;
    if matches!(kind, Kind::Phone) {
        page.phone().await;
    } else {
        page.wide().await;
    }
    for (what, script) in [("hard to read", CONTRAST), ("sticks out", OVERFLOW), ("too small", SMALL)] {
        let found = page.js(script).await;
        assert!(found.is_empty(), "{name} ({suffix}): {what}:\n{found}");
    }
    let folder = std::env::current_exe().unwrap();
    let folder = folder.ancestors().nth(3).unwrap().join("web-screens");
    std::fs::create_dir_all(&folder).unwrap();
    let picture = base64::engine::general_purpose::STANDARD.decode(page.picture().await).unwrap();
    assert!(picture.len() > 4000, "{name}: an empty picture");
    std::fs::write(folder.join(format!("{name}-{suffix}.png")), picture).unwrap();
    page.wide().await;
    page.scheme("light").await;
}
