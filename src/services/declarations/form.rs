//! The forms: JSON Schema (2020-12) files in `config/forms`, one a version, compiled into the binary and checked against
//! with the schema compiled once.
//!
//! A version is never changed once it was released: what was declared by it is read by it. A form names itself in `x-form`;
//! `accepted_until` there is the day (UTC) from which on nothing new is declared by this version, null while there is none.

use std::borrow::Cow;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::respond::{Cause, Refused};
use crate::scan::UnixMillis;

/// Every form and version there is.
const TEXTS: &[&str] = &[
    include_str!("../../../config/forms/health-1.json"),
    include_str!("../../../config/forms/movement-1.json"),
];

/// The form whose answers are a journey.
pub(super) const MOVEMENT: &str = "movement";

/// The most characters of a rule that a refusal spells out.
const RULE_CHARS_MAX: usize = 120;

/// What a form says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    pub(super) name: String,
    pub(super) version: u16,
    /// `YYYY-MM-DD`.
    pub(super) accepted_until: Option<String>,
}

/// One version of one form.
pub(super) struct Form {
    pub(super) about: About,
    /// The file as it stands.
    pub(super) text: Cow<'static, str>,
    /// Whether answers by it are a journey.
    pub(super) is_movement: bool,
    accepted_until: Option<UnixMillis>,
    schema: Value,
    validator: Validator,
}

/// Why a form can't be used: for whoever writes one, since the gateway's own are tested.
#[derive(Debug, thiserror::Error)]
#[error("a form must be a JSON Schema with x-form; {0}")]
pub(super) struct BadForm(&'static str);

impl Form {
    /// Reads a form.
    ///
    /// # Errors
    /// It is no JSON Schema, or doesn't name itself.
    pub(super) fn read(text: Cow<'static, str>) -> Result<Self, BadForm> {
        let schema: Value = serde_json::from_str(&text).map_err(|_| BadForm("it is no JSON"))?;
        let about = schema.get("x-form").cloned().ok_or(BadForm("it has no x-form"))?;
        let about: About = serde_json::from_value(about)
            .map_err(|_| BadForm("x-form needs name, version, accepted_until"))?;
        let day = |day: &String| UnixMillis::parse(&format!("{day}T00:00:00Z"));
        let accepted_until = about.accepted_until.as_ref().map(day).transpose();
        let accepted_until = accepted_until.map_err(|_| BadForm("accepted_until must be a day"))?;
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            // Matches in linear time, whatever is sent.
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .offline()
            .build(&schema)
            .map_err(|_| BadForm("the schema can't be compiled"))?;
        let is_movement = about.name == MOVEMENT;
        Ok(Self { about, text, is_movement, accepted_until, schema, validator })
    }

    /// Whether something new may still be declared by it.
    ///
    /// # Errors
    /// Its time is over.
    pub(super) fn check_accepted(&self, now: UnixMillis) -> Result<(), Refused> {
        match (self.accepted_until, &self.about.accepted_until) {
            (Some(until), Some(day)) if now >= until => {
                let detail =
                    format!("this version of the form was accepted until {day}; there is a newer one");
                Err(Refused::new(Cause::Invalid, detail).field("/version"))
            }
            _ => Ok(()),
        }
    }

    /// Whether answers are as the form has it.
    ///
    /// # Errors
    /// The first rule that doesn't hold, and the answer that it is about as a JSON pointer; never what was answered.
    pub(super) fn check(&self, answers: &Value) -> Result<(), Refused> {
        self.validator.validate(answers).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &ValidationError<'_>) -> Refused {
        let at = format!("/answers{}", error.instance_path().as_str());
        match error.kind() {
            // Its name is the form's.
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                Refused::new(Cause::Invalid, "the form asks for this").field(format!("{at}/{name}"))
            }
            // Its name is the sender's, and may be anything.
            ValidationErrorKind::AdditionalProperties { .. } => {
                Refused::new(Cause::Invalid, "has a member that the form doesn't know").field(at)
            }
            kind => {
                let keyword = kind.keyword();
                let rule = self.schema.pointer(error.schema_path().as_str()).map(Value::to_string);
                let detail = match rule.filter(|rule| rule.len() <= RULE_CHARS_MAX) {
                    Some(rule) => format!("must keep the form's rule {keyword}: {rule}"),
                    None => format!("must keep the form's rule {keyword}"),
                };
                Refused::new(Cause::Invalid, detail).field(at)
            }
        }
    }
}

/// All of them.
pub(super) struct Forms(Vec<Arc<Form>>);

impl Forms {
    /// Reads those of the binary.
    pub(super) fn open() -> Result<Self, BadForm> {
        let read = |text: &&'static str| Form::read(Cow::Borrowed(*text)).map(Arc::new);
        TEXTS.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// A form of this name and version.
    pub(super) fn find(&self, name: &str, version: u16) -> Option<&Form> {
        let is_it = |form: &&Arc<Form>| form.about.name == name && form.about.version == version;
        self.0.iter().find(is_it).map(Arc::as_ref)
    }

    /// What there is.
    pub(super) fn list(&self) -> impl Iterator<Item = &About> {
        self.0.iter().map(|form| &form.about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

    fn health() -> Value {
        json!({"symptoms": ["fever"], "symptom_days": 2, "contact_with_case": false,
            "contact_with_symptoms": false, "in_outbreak_area": true, "areas": [{"province": "79"}]})
    }

    fn refusal(answers: &Value) -> Refused {
        let forms = Forms::open().unwrap();
        forms.find("health", 1).unwrap().check(answers).unwrap_err()
    }

    #[test]
    fn each_refusal_names_its_answer_and_its_rule_and_quotes_nothing() {
        assert!(Forms::open().unwrap().find("health", 1).unwrap().check(&health()).is_ok());
        let cases = [
            ("symptoms", json!(["fever", "0912345678"]), "/answers/symptoms/1", "enum"),
            ("symptoms", Value::Null, "/answers/symptoms", "type"),
            ("symptom_days", json!(15), "/answers/symptom_days", "maximum: 14"),
            ("areas", json!([{"province": "0912345678"}]), "/answers/areas/0/province", "pattern"),
            ("areas", json!([]), "/answers/areas", "minItems: 1"),
            ("areas", json!([{}]), "/answers/areas/0/province", "asks for this"),
            ("note", json!("0912345678".repeat(40)), "/answers/note", "maxLength: 300"),
            ("note", json!("a\u{0}b"), "/answers/note", "pattern"),
            ("0912345678", json!(1), "/answers", "doesn't know"),
        ];
        for (name, value, field, rule) in cases {
            let mut answers = health();
            answers[name] = value;
            let refused = refusal(&answers);
            assert_eq!(refused.field.as_deref(), Some(field), "{refused:?}");
            assert!(refused.detail.contains(rule), "{refused:?}");
            assert!(!format!("{refused:?}").contains("0912345678"), "{refused:?}");
        }
    }

    #[test]
    fn what_an_answer_makes_necessary_is_asked_for() {
        for (name, field) in [("symptom_days", "/answers/symptom_days"), ("areas", "/answers/areas")] {
            let mut answers = health();
            answers.as_object_mut().unwrap().remove(name);
            assert_eq!(refusal(&answers).field.as_deref(), Some(field));
        }
        let none = json!({"symptoms": [], "contact_with_case": false, "contact_with_symptoms": false,
            "in_outbreak_area": false});
        assert!(Forms::open().unwrap().find("health", 1).unwrap().check(&none).is_ok());
        assert_eq!(refusal(&json!([])).field.as_deref(), Some("/answers"));
    }

    #[test]
    fn a_version_is_accepted_until_its_day() {
        let ended = TEXTS[0].replace("\"accepted_until\": null", "\"accepted_until\": \"2021-11-24\"");
        let form = Form::read(ended.into()).unwrap();
        assert!(form.check_accepted(UnixMillis::parse("2021-11-23T23:59:59.999Z").unwrap()).is_ok());
        let refused = form.check_accepted(NOW).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("/version"));
        assert!(refused.detail.contains("2021-11-24"));
        for bad in ["{", "{}", &TEXTS[0].replace("\"version\": 1,", "")] {
            assert!(Form::read(bad.to_owned().into()).is_err(), "{bad:.40}");
        }
    }

    /// Everything a person reads is there in both languages.
    #[test]
    fn every_question_and_every_choice_has_both_languages() {
        fn in_both(labels: &Value, at: &str) {
            for language in ["vi", "en"] {
                assert!(labels[language].as_str().is_some_and(|text| !text.is_empty()), "{at}: {language}");
            }
        }
        fn walk(schema: &Value, at: &str) -> usize {
            let mut questions = 0;
            for (name, question) in schema["properties"].as_object().into_iter().flatten() {
                let at = format!("{at}/{name}");
                in_both(&question["x-labels"], &at);
                questions += 1 + walk(question, &at);
                for choices in [question, &question["items"]] {
                    for choice in choices["enum"].as_array().into_iter().flatten() {
                        let name = choice.as_str().unwrap();
                        in_both(&choices["x-value-labels"][name], &format!("{at}={name}"));
                    }
                }
            }
            questions
        }
        for text in TEXTS {
            let schema: Value = serde_json::from_str(text).unwrap();
            in_both(&schema["x-labels"], "the form");
            assert!(walk(&schema, "") >= 7);
            assert_eq!(walk(&schema["$defs"]["area"], "/area"), 2);
        }
    }
}
