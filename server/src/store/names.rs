//! Names (hosts, files, services, tracepoints, agents, sessions) as numbers.

use std::{collections::HashMap, sync::Arc};

/// Every name that was stored.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name; a new one is added.
    pub(crate) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        let text: Arc<str> = Arc::from(text);
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    /// The number of a name, if there is one.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    /// The name of a number.
    pub(crate) fn text(&self, number: u32) -> Arc<str> {
        self.texts.get(number as usize).cloned().unwrap_or_default()
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> &[Arc<str>] {
        &self.texts
    }
}

/// Numbers of names that come again and again, mostly the same one as the last time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latest(Option<(Arc<str>, u32)>);

impl Latest {
    pub(crate) fn number(&mut self, names: &mut Names, text: &str) -> u32 {
        match &self.0 {
            Some((known, number)) if **known == *text => *number,
            _ => {
                let number = names.number(text);
                self.0 = Some((names.text(number), number));
                number
            }
        }
    }
}
