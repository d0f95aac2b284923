//! Whether an answer fits an OpenAPI description. Only the keywords that ours uses are known;
//! any other fails the test, so that none is passed over in silence.

use serde_json::Value;

use crate::server::Answer;

pub struct Description(Value);

impl Description {
    pub fn new(document: Value) -> Self {
        Self(document)
    }

    /// Path and method of everything described.
    pub fn operations(&self) -> Vec<(String, String)> {
        let paths = self.0["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            let members = item.as_object().expect("an item").keys();
            members
                .filter(|name| *name != "parameters")
                .map(move |method| (path.clone(), method.clone()))
        });
        operations.collect()
    }

    /// The answer has a status, a content type, headers and a body as described.
    pub fn check(&self, method: &str, path: &str, answer: &Answer) {
        let status = answer.status.to_string();
        let what = format!("{method} {path}: {status}");
        let response = self.resolve(&self.0["paths"][path][method]["responses"][&status]);
        assert!(response.is_object(), "{what} is not described");
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            self.check_header(&what, name, self.resolve(header), answer);
        }
        let Some(content) = response["content"].as_object() else {
            assert_eq!(answer.text, "", "{what}: a body is not described");
            return;
        };
        let sent = answer.headers["content-type"].to_str().expect("text");
        let media_type = sent.split(';').next().expect("a type");
        let described = content
            .get(media_type)
            .unwrap_or_else(|| panic!("{what}: {media_type} is not described"));
        if media_type == "application/json" {
            self.fits(&described["schema"], &answer.json(), &what);
        }
    }

    fn check_header(&self, what: &str, name: &str, header: &Value, answer: &Answer) {
        let what = format!("{what}, header {name}");
        let Some(value) = answer.headers.get(name) else {
            assert_ne!(header["required"], true, "{what}: not sent");
            return;
        };
        let text = value.to_str().expect("text");
        let value = match header["schema"]["type"].as_str() {
            Some("integer") => serde_json::from_str(text).expect("a number"),
            _ => Value::from(text),
        };
        self.fits(&header["schema"], &value, &what);
    }

    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(target) => {
                let pointer = target.strip_prefix('#').expect("a local reference");
                let found = self.0.pointer(pointer);
                self.resolve(found.unwrap_or_else(|| panic!("{target} is not there")))
            }
            None => node,
        }
    }

    fn fits(&self, schema: &Value, value: &Value, place: &str) {
        if let Err(reason) = self.try_fit(self.resolve(schema), value) {
            panic!("{place}: {reason}\n{value:#}");
        }
    }

    fn try_fit(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let members = schema.as_object().expect("a schema is an object");
        for (keyword, limit) in members {
            let is_right = match keyword.as_str() {
                "type" => match limit {
                    Value::Array(types) => types.iter().any(|name| is_type(name, value)),
                    name => is_type(name, value),
                },
                "const" => limit == value,
                "enum" => limit.as_array().is_some_and(|all| all.contains(value)),
                "minimum" => value.as_f64() >= limit.as_f64() || !value.is_number(),
                "required" => limit.as_array().is_some_and(|names| {
                    let has = |name: &Value| value.get(name.as_str().unwrap_or("")).is_some();
                    !value.is_object() || names.iter().all(has)
                }),
                "anyOf" => {
                    let choices = limit.as_array().expect("a list of schemas");
                    let fits = |choice| self.try_fit(self.resolve(choice), value).is_ok();
                    choices.iter().any(fits)
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.try_fit(self.resolve(limit), item)
                            .map_err(|reason| format!("[{index}]{reason}"))?;
                    }
                    true
                }
                "properties" | "additionalProperties" => {
                    self.fit_members(schema, value)?;
                    true
                }
                // The shape of texts is for generators; the fuzzer checks it.
                "description" | "format" | "pattern" => true,
                other => panic!("the keyword {other} is not known here: {schema}"),
            };
            if !is_right {
                return Err(format!(": {keyword} is {limit}, found {value}"));
            }
        }
        Ok(())
    }

    fn fit_members(&self, schema: &Value, value: &Value) -> Result<(), String> {
        for (name, member) in value.as_object().into_iter().flatten() {
            let described = match schema["properties"].get(name) {
                Some(described) => described,
                None if schema["additionalProperties"] == false => {
                    return Err(format!(".{name} is not described"));
                }
                None if schema["additionalProperties"].is_object() => {
                    &schema["additionalProperties"]
                }
                None => continue,
            };
            self.try_fit(self.resolve(described), member)
                .map_err(|reason| format!(".{name}{reason}"))?;
        }
        Ok(())
    }
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("the name of a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}
