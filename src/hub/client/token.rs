//! The access token: found in the usual places, shown nowhere.
//!
//! Knows where the official tools keep a token. Whether one is needed at all, the caller decides.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::core::error::{Error, Result};

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

/// Variables with a token, the first that is set.
const NAMES: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// The variable with the path of the token's file.
const PATH: &str = "HF_TOKEN_PATH";

/// Finds the user's token where Python's `huggingface_hub` does: `HF_TOKEN` (or its older name), else the one file that
/// `HF_TOKEN_PATH` names, else `token` in `HF_HOME` or `~/.cache/huggingface`. No place is tried after one that holds
/// something: the token there may be another account's.
///
/// # Errors
/// What is there is no token, or the file that `HF_TOKEN_PATH` names cannot be read. One that is missing is no token.
pub fn resolve_token(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Token>> {
    if let Some((name, text)) = NAMES.into_iter().find_map(|name| Some((name, filled(env, name)?))) {
        return checked(&text, &format!("`{name}`"));
    }
    let Some(path) = token_file(env) else { return Ok(None) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if filled(env, PATH).is_none() || e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::hub(format!("`{PATH}` names a file that cannot be read")).cause(e.to_string())),
    };
    if text.trim().is_empty() { Ok(None) } else { checked(&text, &format!("`{}`", path.display())) }
}

/// Every text that may be a token of the user's, good or not, to keep it out of what is written and published.
pub fn token_texts(env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let named = NAMES.into_iter().filter_map(|name| filled(env, name));
    let kept = token_file(env).and_then(|path| std::fs::read_to_string(path).ok());
    let texts = named.chain(kept).map(|text| text.trim().to_owned());
    texts.filter(|text| !text.is_empty()).collect()
}

/// Where the token's file is expected, named by `HF_TOKEN_PATH` or else by habit.
fn token_file(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // Python expands `~` and variables in both
    let path = |text: String| {
        let expanded = shellexpand::full_with_context_no_errors(&text, || env("HOME"), |name| env(name));
        PathBuf::from(expanded.as_ref())
    };
    if let Some(named) = filled(env, PATH) {
        return Some(path(named));
    }
    let cache = || Some(path(filled(env, "XDG_CACHE_HOME")?));
    let home = || Some(PathBuf::from(filled(env, "HOME")?).join(".cache"));
    let folder = filled(env, "HF_HOME").map(path).or_else(|| Some(cache().or_else(home)?.join("huggingface")));
    folder.map(|folder| folder.join("token"))
}

fn filled(env: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.trim().is_empty())
}

fn checked(text: &str, place: &str) -> Result<Option<Token>> {
    match Token::new(text) {
        Some(token) => Ok(Some(token)),
        None => Err(Error::hub(format!("{place} holds something that is no token"))
            .cause("a token is one word of letters, digits and signs, with nothing before or after it")
            .hint("copy the token alone, as the hub's settings show it (without `Bearer`)")),
    }
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
        let found = |names| resolve_token(&env(names)).unwrap().map(|token| token.secret().to_owned());
        assert_eq!(found(&["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"]).as_deref(), Some("from-env"));
        assert_eq!(found(&["HF_TOKEN_PATH", "HF_HOME"]).as_deref(), Some("from-path"));
        assert_eq!(found(&["HF_HOME"]).as_deref(), Some("from-home"));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn no_other_token_is_taken_for_one_that_is_none_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join(".cache/huggingface");
        std::fs::create_dir_all(&cache).unwrap();
        std::fs::write(cache.join("token"), "hf_home\n").unwrap();
        let home = dir.path().to_str().unwrap().to_owned();
        let found = |name: &'static str, value: &'static str| {
            let env = |asked: &str| match asked {
                "HOME" => Some(home.clone()),
                _ => (asked == name).then(|| value.to_owned()),
            };
            let found = resolve_token(&env).map(|token| token.map(|token| token.secret().to_owned()));
            found.map_err(|error| error.message().to_owned())
        };
        let home = || Ok(Some("hf_home".to_owned()));
        assert_eq!(found("NOTHING", ""), home());
        for text in ["hf_ bad", "Bearer hf_x", "hf_a\nhf_b", "hf_\u{e4}"] {
            let error = found("HF_TOKEN", text).unwrap_err();
            assert!(error.contains("`HF_TOKEN` holds something that is no token"), "{error}");
        }
        assert_eq!(found("HF_TOKEN", " hf_x\n"), Ok(Some("hf_x".to_owned())));
        assert_eq!(found("HF_TOKEN", "  "), home());
        assert_eq!(found("HUGGING_FACE_HUB_TOKEN", "hf_old"), Ok(Some("hf_old".to_owned())));
        assert_eq!(found("HF_TOKEN_PATH", "/nope/token"), Ok(None));
        assert!(found("HF_TOKEN_PATH", "/").unwrap_err().contains("cannot be read"));
        assert_eq!(found("HF_TOKEN_PATH", "$HOME/.cache/huggingface/token"), home());
        assert_eq!(found("HF_HOME", "~/.cache/huggingface"), home());
    }
}
