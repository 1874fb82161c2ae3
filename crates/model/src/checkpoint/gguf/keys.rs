//! The metadata below a family's name: what is read is remembered, so that a key nobody reads is refused by name.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{self, Display};

use rootstock_formats::FormatError;
use rootstock_formats::gguf::{Gguf, Value, required};

use super::super::Refusal;
use super::family::{FIXED, Family, Fixed, INERT};

/// Sizes above this are refused: no model has them, and products of two stay far from overflow.
pub(super) const LARGEST_SIZE: usize = 1 << 24;

pub(super) struct Keys<'a> {
    gguf: &'a Gguf,
    pub(super) family: &'static Family,
    read: RefCell<BTreeSet<&'static str>>,
}

/// What a key says about the layers.
pub(super) enum PerLayer {
    One(u64),
    Each(Vec<u64>),
}

impl<'a> Keys<'a> {
    pub(super) fn new(gguf: &'a Gguf, family: &'static Family) -> Self {
        Self {
            gguf,
            family,
            read: RefCell::default(),
        }
    }

    /// The key as the file has it.
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.family.name)
    }

    fn reading(&self, key: &'static str) -> String {
        self.read.borrow_mut().insert(key);
        self.full(key)
    }

    /// A size above zero.
    pub(super) fn size(&self, key: &'static str) -> Result<usize, Refusal> {
        Ok(required(&self.full(key), self.optional_size(key)?)?)
    }

    pub(super) fn size_or(&self, key: &'static str, default: usize) -> Result<usize, Refusal> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    pub(super) fn optional_size(&self, key: &'static str) -> Result<Option<usize>, Refusal> {
        let size = self.gguf.get_usize(&self.reading(key))?;
        size.map(|size| self.checked_size(key, size)).transpose()
    }

    /// A size above zero; zero stands for none.
    pub(super) fn size_or_zero(&self, key: &'static str) -> Result<Option<usize>, Refusal> {
        match self.gguf.get_usize(&self.reading(key))? {
            None | Some(0) => Ok(None),
            Some(size) => self.checked_size(key, size).map(Some),
        }
    }

    /// One size for each of `layers` layers: an array of so many, or one for all.
    pub(super) fn sizes(&self, key: &'static str, layers: usize) -> Result<Option<Vec<usize>>, Refusal> {
        let size = |&size: &u64| self.checked_size(key, usize::try_from(size).unwrap_or(usize::MAX));
        Ok(match self.per_layer(key, layers)? {
            None => None,
            Some(PerLayer::One(one)) => Some(vec![size(&one)?; layers]),
            Some(PerLayer::Each(each)) => Some(each.iter().map(size).collect::<Result<_, _>>()?),
        })
    }

    /// A number for all layers, or an array of one for each of `layers` layers.
    pub(super) fn per_layer(&self, key: &'static str, layers: usize) -> Result<Option<PerLayer>, Refusal> {
        let full = self.reading(key);
        let stated = self.gguf.get_u64s(&full)?;
        match (self.gguf.get(&full), stated) {
            (Some(Value::Array(_)), Some(each)) if each.len() == layers => Ok(Some(PerLayer::Each(each))),
            (Some(Value::Array(_)), Some(each)) => {
                let got = format_args!("an array of {}", each.len());
                Err(self.unsupported(key, got, format_args!("one number, or one for each of {layers} layers")))
            }
            (_, stated) => Ok(stated.and_then(|stated| stated.first().copied()).map(PerLayer::One)),
        }
    }

    fn checked_size(&self, key: &str, size: usize) -> Result<usize, Refusal> {
        if !(1..=LARGEST_SIZE).contains(&size) {
            return Err(self.unsupported(key, size, format_args!("1 to {LARGEST_SIZE}")));
        }
        Ok(size)
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &'static str) -> Result<f32, Refusal> {
        Ok(required(&self.full(key), self.optional_positive(key)?)?)
    }

    pub(super) fn optional_positive(&self, key: &'static str) -> Result<Option<f32>, Refusal> {
        match self.optional_number(key)? {
            Some(value) if value <= 0.0 => Err(self.unsupported(key, value, "a positive number")),
            value => Ok(value),
        }
    }

    /// A finite number.
    pub(super) fn optional_number(&self, key: &'static str) -> Result<Option<f32>, Refusal> {
        match self.gguf.get_f32(&self.reading(key))? {
            Some(value) if !value.is_finite() => Err(self.unsupported(key, value, "a finite number")),
            value => Ok(value),
        }
    }

    pub(super) fn optional_text(&self, key: &'static str) -> Result<Option<&'a str>, Refusal> {
        Ok(self.gguf.get_str(&self.reading(key))?)
    }

    /// Refuses keys that nobody has read and that are not known to have no effect.
    pub(super) fn refuse_unread(&self) -> Result<(), Refusal> {
        for (key, fixed) in FIXED {
            if let Some(got) = fixed.contradiction(self.gguf, &self.full(key))? {
                return Err(self.unsupported(key, got, fixed));
            }
        }
        let prefix = self.full("");
        let read = self.read.borrow();
        let known =
            |key: &&str| read.contains(key) || INERT.contains(key) || FIXED.iter().any(|(fixed, _)| fixed == key);
        let mut own = self.gguf.metadata().keys().filter_map(|key| key.strip_prefix(&prefix));
        match own.find(|key| !known(key)) {
            Some(key) => Err(Refusal::unsupported(format_args!(
                "{}: not known for this architecture, and it could change the numbers",
                self.full(key)
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn unsupported(&self, key: &str, got: impl Display, supported: impl Display) -> Refusal {
        Refusal::unsupported(format_args!(
            "{}: {got} is not supported (supported: {supported})",
            self.full(key)
        ))
    }
}

impl Fixed {
    /// The value at `key` if it is another one.
    fn contradiction(&self, gguf: &Gguf, key: &str) -> Result<Option<String>, FormatError> {
        fn other<T: PartialEq + Display>(got: Option<T>, only: T) -> Option<String> {
            got.filter(|got| *got != only).map(|got| got.to_string())
        }
        Ok(match *self {
            Self::Integer(only) => other(gguf.get_u64(key)?, only),
            Self::Number(only) => other(gguf.get_f32(key)?, only),
            Self::Truth(only) => other(gguf.get_bool(key)?, only),
        })
    }
}

impl Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Truth(truth) => write!(f, "{truth}"),
        }
    }
}
