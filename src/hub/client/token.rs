//! The access token: found in the usual places, shown nowhere.
//!
//! Knows where the official tools keep a token. Whether one is needed at all, the caller decides.

use std::fmt;
use std::path::PathBuf;

/// An access token. Neither `Debug` nor `Display` shows anything of it, so it cannot slip into an error or a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as typed or read: trimmed; `None` when nothing, or nothing that fits in a header, is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Token(text.to_owned()))
    }

    /// The secret, for filters that take it out of texts; it is put nowhere else.
    pub fn for_masking(&self) -> String {
        self.0.clone()
    }

    /// The secret itself, for the one header it belongs in.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Finds the user's token: `HF_TOKEN`, else the file `HF_TOKEN_PATH` names, else `token` in `HF_HOME`, else
/// `~/.cache/huggingface/token`. The first that is named counts: where it holds no token there is none, and nobody else's is
/// taken in its place.
pub fn resolve_token(env: &dyn Fn(&str) -> Option<String>) -> Option<Token> {
    let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    if let Some(text) = set("HF_TOKEN") {
        return Token::new(&text);
    }
    let read = |path: PathBuf| Token::new(&std::fs::read_to_string(path).ok()?);
    if let Some(named) = set("HF_TOKEN_PATH") {
        return read(named.into());
    }
    let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
        cache.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache"))).map(|dir| dir.join("huggingface"))
    });
    read(home?.join("token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.secret(), "hf_secret");
        assert!(!format!("{token:?} {token}").contains("secret"));
        assert!(Token::new(" \n").is_none());
        assert!(Token::new("a b\nc").is_none());
    }

    #[test]
    fn places_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let named = file("named", "from-path\n");
        file("token", "from-home\n");
        let home = dir.path().to_str().unwrap().to_owned();
        let env = |names: &'static [&'static str]| {
            let (named, home) = (named.clone(), home.clone());
            move |name: &str| match name {
                _ if !names.contains(&name) => None,
                "HF_TOKEN" => Some("from-env".to_owned()),
                "HF_TOKEN_PATH" => Some(named.clone()),
                "HF_HOME" => Some(home.clone()),
                _ => None,
            }
        };
        let found = |names| resolve_token(&env(names)).map(|token| token.secret().to_owned());
        assert_eq!(found(&["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"]).as_deref(), Some("from-env"));
        assert_eq!(found(&["HF_TOKEN_PATH", "HF_HOME"]).as_deref(), Some("from-path"));
        assert_eq!(found(&["HF_HOME"]).as_deref(), Some("from-home"));
        assert_eq!(found(&[]), None);
        let nowhere = |name: &str| match name {
            "HF_TOKEN_PATH" => Some("/nowhere/token".to_owned()),
            other => env(&["HF_HOME"])(other),
        };
        assert_eq!(resolve_token(&nowhere), None, "another account's");
        let broken = |name: &str| if name == "HF_TOKEN" { Some("hf_ bad".to_owned()) } else { env(&["HF_HOME"])(name) };
        assert_eq!(resolve_token(&broken), None, "another account's");
    }
}
