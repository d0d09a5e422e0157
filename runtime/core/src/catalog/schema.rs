//! The JSON Schema of a catalogue document, for editors and importers.

/// JSON Schema, draft 2020-12. What no schema can say (names that must be there, conditions, channels) is said when a document is read.
pub const SCHEMA: &str = include_str!("schema.json");

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{document, parts, tests, toml};
    use super::SCHEMA;

    fn schema() -> Value {
        serde_json::from_str(SCHEMA).expect("JSON")
    }

    /// The first place of a value that the schema does not allow, by the keywords that it uses.
    fn check(schema: &Value, rule: &Value, value: &Value, place: &str) -> Result<(), String> {
        let fault = |what: &str| Err(format!("{place}: {what}: {value}"));
        if let Some(name) = rule["$ref"].as_str() {
            return check(schema, schema.pointer(name.trim_start_matches('#')).expect("a definition"), value, place);
        }
        if let Some(any) = rule["anyOf"].as_array() {
            let fits = any.iter().any(|rule| check(schema, rule, value, place).is_ok());
            return if fits { Ok(()) } else { fault("fits none") };
        }
        if let Some(only) = rule.get("const") {
            return if value == only { Ok(()) } else { fault("is another") };
        }
        if let Some(words) = rule["enum"].as_array() {
            return if words.contains(value) { Ok(()) } else { fault("is no such word") };
        }
        let is = |name: &Value| match name.as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("number") => value.is_number(),
            Some("integer") => value.is_u64(),
            other => panic!("{place}: the type {other:?}"),
        };
        let types = rule["type"].as_array().cloned().unwrap_or_else(|| vec![rule["type"].clone()]);
        if !types.iter().any(is) {
            return fault("has another type");
        }
        let number = value.as_f64().unwrap_or_default();
        if rule["minimum"].as_f64().is_some_and(|least| number < least)
            || rule["maximum"].as_f64().is_some_and(|most| number > most)
        {
            return fault("is out of range");
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            check(schema, &rule["items"], value, &format!("{place}/{index}"))?;
        }
        for needed in rule["required"].as_array().into_iter().flatten() {
            if value.get(needed.as_str().expect("a name")).is_none() {
                return fault(&format!("has no {needed}"));
            }
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            let place = format!("{place}/{key}");
            match (rule["properties"].get(key), rule.get("additionalProperties")) {
                (Some(rule), _) => check(schema, rule, value, &place)?,
                (None, Some(Value::Bool(false))) => return Err(format!("{place}: unknown key")),
                (None, Some(rule)) => check(schema, rule, value, &place)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_read_is_what_the_schema_allows() {
        let schema = schema();
        let retail = include_str!("../../../../plugins/retail/catalog.toml");
        let toml = |text: &str| toml::to_json(text).expect("TOML").get().to_owned();
        for document in [tests::WHOLE.to_owned(), toml(tests::SAMPLE), toml(retail)] {
            let document: Value = serde_json::from_str(&document).expect("JSON");
            check(&schema, &schema, &document, "").expect("allowed");
        }
        let mut wrong: Value = serde_json::from_str(tests::WHOLE).expect("JSON");
        wrong["offers"][0]["caps"][0]["most"] = 0.into();
        assert!(check(&schema, &schema, &wrong, "").expect_err("a cap of zero").starts_with("/offers/0/caps/0/most"));
    }

    #[test]
    fn the_schema_has_exactly_the_keys_that_are_read() {
        let schema = schema();
        for (place, keys) in [
            ("", document::ROOT_KEYS),
            ("/$defs/offer", document::OFFER_KEYS),
            ("/$defs/offer/properties/suppress", parts::SUPPRESS_KEYS),
            ("/$defs/variant", document::VARIANT_KEYS),
            ("/$defs/slot", document::SLOT_KEYS),
            ("/$defs/slot/properties/fallback/anyOf/1", document::FALLBACK_KEYS),
            ("/$defs/slot/properties/arbitration", parts::ARBITRATION_KEYS),
            ("/$defs/weight", document::WEIGHT_KEYS),
            ("/$defs/campaign", document::CAMPAIGN_KEYS),
            ("/$defs/audience", document::AUDIENCE_KEYS),
            ("/$defs/category", document::CATEGORY_KEYS),
            ("/$defs/channel", document::CHANNEL_KEYS),
            ("/$defs/channels/additionalProperties/anyOf/1", parts::CHANNEL_CONTENT_KEYS),
            ("/$defs/quiet", parts::QUIET_KEYS),
            ("/$defs/valid", parts::VALID_KEYS),
            ("/$defs/cap", parts::CAP_KEYS),
            ("/$defs/part", parts::PART_KEYS),
            ("/properties/holdout", document::HOLDOUT_KEYS),
            ("/properties/response", document::RESPONSE_KEYS),
        ] {
            let rule = schema.pointer(place).unwrap_or_else(|| panic!("{place}"));
            let mut listed: Vec<&str> =
                rule["properties"].as_object().expect(place).keys().map(String::as_str).collect();
            let mut keys = keys.to_vec();
            listed.sort_unstable();
            keys.sort_unstable();
            assert_eq!(listed, keys, "{place}");
            assert_eq!(rule["additionalProperties"], false, "{place}");
        }
    }
}
