//! What is said in a file: its paths, strings and calls, read from its tokens.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What the tokens of one file say: paths, strings, method calls, each with its line.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) paths: Vec<(usize, Vec<String>)>,
    pub(crate) strings: Vec<(usize, String)>,
    pub(crate) calls: Vec<(usize, String)>,
    pub(crate) modules: Vec<(usize, String)>,
    pub(crate) macros: Vec<(usize, String)>,
    pub(crate) words: Vec<(usize, String)>,
    pub(crate) attributes: Vec<(usize, String)>,
}

/// Reads tokens rather than syntax, so that a path inside `format!(...)` or any other macro is seen as well.
impl Said {
    /// Takes in the tokens of a module, behind the beginning of a path where there is one.
    pub(crate) fn listen(&mut self, tokens: TokenStream, module: &[String], prefix: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = self.token(&tokens, at, module, prefix);
        }
    }

    /// Takes in what begins at `at`, and says where the next begins.
    fn token(&mut self, tokens: &[TokenTree], at: usize, module: &[String], prefix: &[String]) -> usize {
        match &tokens[at] {
            TokenTree::Literal(literal) => {
                if let Ok(syn::Lit::Str(text)) = syn::parse_str(&literal.to_string()) {
                    self.strings.push((literal.span().start().line, text.value()));
                }
                at + 1
            }
            TokenTree::Punct(punct) if punct.as_char() == '#' => self.attribute(tokens, at, module),
            TokenTree::Punct(punct) if punct.as_char() == '.' => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(_))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    self.calls.push((name.span().start().line, name.to_string()));
                }
                at + 1
            }
            TokenTree::Punct(_) => at + 1,
            TokenTree::Group(group) => {
                self.listen(group.stream(), module, &[]);
                at + 1
            }
            TokenTree::Ident(_) => self.path(tokens, at, module, prefix),
        }
    }

    /// `#[...]` or `#![...]`: documentation is not code; everything else is.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> usize {
        let at = at + 1 + usize::from(matches!(tokens.get(at + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!'));
        let Some(TokenTree::Group(group)) = tokens.get(at) else { return at };
        if let Some(TokenTree::Ident(name)) = group.stream().into_iter().next() {
            self.attributes.push((name.span().start().line, name.to_string()));
            if name == "doc" {
                return at + 1;
            }
        }
        self.listen(group.stream(), module, &[]);
        at + 1
    }

    /// `a::b::c`, `a::{b, c::d}`, `mod a {...}`, `a!`.
    fn path(&mut self, tokens: &[TokenTree], start: usize, module: &[String], prefix: &[String]) -> usize {
        let text = |at: usize| tokens.get(at).map(ToString::to_string).unwrap_or_default();
        let line = tokens[start].span().start().line;
        if text(start) == "mod" {
            self.modules.push((line, text(start + 1)));
            if let Some(TokenTree::Group(body)) = tokens.get(start + 2) {
                self.listen(body.stream(), &[module, &[text(start + 1)]].concat(), &[]);
                return start + 3;
            }
            return start + 2;
        }
        let mut segments = prefix.to_vec();
        segments.push(text(start));
        let mut at = start + 1;
        while text(at) == ":" && text(at + 1) == ":" {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(next)) => segments.push(next.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.listen(group.stream(), module, &segments);
                    return at + 3;
                }
                _ => break,
            }
            at += 3;
        }
        if text(at) == "!" && matches!(tokens.get(at + 1), Some(TokenTree::Group(_))) {
            self.macros.push((line, segments.last().cloned().unwrap_or_default()));
        }
        let imported = start > 0 && ["use", "crate"].contains(&text(start - 1).as_str());
        if segments.len() > 1 || imported || segments[0].starts_with(char::is_uppercase) {
            self.paths.push((line, absolute(&segments, module)));
        }
        self.words.extend((segments.len() == 1).then(|| (line, segments.remove(0))));
        at
    }
}

/// `super::x` and `self::x` seen from the crate.
fn absolute(segments: &[String], module: &[String]) -> Vec<String> {
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    let rest = &segments[ups..];
    if ups > 0 {
        let kept = &module[..module.len().saturating_sub(ups)];
        return [&["crate".to_owned()], kept, rest].concat();
    }
    match segments.first().map(String::as_str) {
        Some("self") if segments.len() > 1 => [&["crate".to_owned()], module, &segments[1..]].concat(),
        _ => segments.to_vec(),
    }
}
