// Runs before Leaflet. Text becomes markup on this page in one case only: Leaflet tries out when it starts whether the
// browser knows SVG. Browsers without Trusted Types ask nobody.
'use strict';

window.trustedTypes?.createPolicy('default', { createHTML: (text) => (text === '<svg/>' ? text : null) });
